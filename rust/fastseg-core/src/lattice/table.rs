//! From packed keys to numbers.

use super::keys::Key;

const EMPTY: u32 = u32::MAX;

/// An open-addressing hash table that only grows.
#[derive(Clone, Debug)]
pub struct Table<const W: usize> {
    entries: Vec<(Key<W>, u32)>,
    shift: u32,
    len: usize,
}

impl<const W: usize> Table<W> {
    /// A table with room for about `expected` keys before it grows.
    pub fn with_room(expected: usize) -> Self {
        let size = (expected * 4).next_power_of_two().max(64);
        Self { entries: vec![([0; W], EMPTY); size], shift: u64::BITS - size.ilog2(), len: 0 }
    }

    /// The value of `key`.
    #[inline(always)]
    pub fn get(&self, key: &Key<W>) -> Option<u32> {
        let value = self.entries[self.slot(key)].1;
        (value != EMPTY).then_some(value)
    }

    /// The value of `key`, which becomes `value` if there is none.
    #[inline(always)]
    pub fn get_or_insert(&mut self, key: &Key<W>, value: u32) -> u32 {
        let slot = self.slot(key);
        let entry = &mut self.entries[slot];
        if entry.1 != EMPTY {
            return entry.1;
        }
        *entry = (*key, value);
        self.len += 1;
        if self.len * 4 > self.entries.len() {
            self.grow();
        }
        value
    }

    /// All keys and their values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key<W>, u32)> {
        self.entries.iter().filter(|entry| entry.1 != EMPTY).map(|entry| (&entry.0, entry.1))
    }

    /// Where `key` is, or where it would go.
    #[inline(always)]
    fn slot(&self, key: &Key<W>) -> usize {
        let mask = self.entries.len() - 1;
        let hash = key
            .iter()
            .fold(0u64, |h, word| (h.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // The high bits of a product depend on all bits of its factors.
        let mut slot = (hash >> self.shift) as usize;
        loop {
            let entry = &self.entries[slot & mask];
            if entry.1 == EMPTY || entry.0 == *key {
                return slot & mask;
            }
            slot += 1;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = Self::with_room(self.entries.len() / 2);
        for (key, value) in self.entries.drain(..).filter(|entry| entry.1 != EMPTY) {
            let slot = larger.slot(&key);
            larger.entries[slot] = (key, value);
        }
        larger.len = self.len;
        *self = larger;
    }
}
