//! The lower envelope of parabolas along one line, in time linear in its length.
//!
//! The parabola of a place `q` is `value(q) + (s·(x − q))²`. Those that are lowest somewhere are the
//! corners of the lower convex hull of the points `(q, value(q) + (s·q)²)`: no division is needed to
//! find them, and with integers no rounding either.

use super::number::Number;

/// The parabolas that are lowest somewhere, and room for them.
#[derive(Default)]
pub(super) struct Envelope<T: Number> {
    at: Vec<usize>,
    height: Vec<T::Wide>,
    value: Vec<T>,
}

impl<T: Number> Envelope<T> {
    pub fn new() -> Self {
        Self { at: Vec::new(), height: Vec::new(), value: Vec::new() }
    }

    /// Calls `write(place, least, from)` for each place of the line: the least value of all
    /// parabolas there, and whose it is. The first of equals wins. Nothing is called where no place
    /// of the line has a value.
    #[inline(always)]
    pub fn sweep(&mut self, line: &[T], scale: T, mut write: impl FnMut(usize, T, usize)) {
        self.at.clear();
        self.height.clear();
        self.value.clear();
        for (q, &value) in line.iter().enumerate() {
            if value < T::FAR {
                self.push(q, value, value.height(scale, q));
            }
        }
        if self.at.is_empty() {
            return;
        }
        let mut k = 0;
        for x in 0..line.len() {
            let mut least = self.value_at(k, x, scale);
            while k + 1 < self.at.len() {
                let next = self.value_at(k + 1, x, scale);
                if next >= least {
                    break;
                }
                least = next;
                k += 1;
            }
            write(x, least, self.at[k]);
        }
    }

    #[inline(always)]
    fn push(&mut self, q: usize, value: T, height: T::Wide) {
        while let [.., a, b] = self.at[..] {
            let [.., high_a, high_b] = self.height[..] else { break };
            if T::slope(height, high_a, b - a) > T::slope(high_b, high_a, q - a) {
                break;
            }
            self.at.pop();
            self.height.pop();
            self.value.pop();
        }
        self.at.push(q);
        self.height.push(height);
        self.value.push(value);
    }

    #[inline(always)]
    fn value_at(&self, k: usize, x: usize, scale: T) -> T {
        self.value[k].plus(T::cost(scale, x.abs_diff(self.at[k])))
    }
}
