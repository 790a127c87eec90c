//! From packed keys to numbers.

use super::keys::Key;

/// What stands for no number.
pub const NONE: u32 = u32::MAX;

/// An open-addressing hash table that only grows.
///
/// Its slots say where in the list of entries a key is: they are few bytes, and keys that came one
/// after the other, which are asked for together, lie side by side.
#[derive(Clone, Debug)]
pub struct Table<const W: usize> {
    slots: Vec<u32>,
    shift: u32,
    entries: Vec<(Key<W>, u32)>,
}

impl<const W: usize> Table<W> {
    /// A table with room for about `expected` keys before it grows.
    pub fn with_room(expected: usize) -> Self {
        let size = (expected * 4).next_power_of_two().max(64);
        Self {
            slots: vec![NONE; size],
            shift: u64::BITS - size.ilog2(),
            entries: Vec::with_capacity(size / 4 + 1),
        }
    }

    /// The value of `key`, or [`NONE`].
    #[inline(always)]
    pub fn get(&self, key: &Key<W>) -> u32 {
        match self.slots[self.slot(key)] {
            NONE => NONE,
            at => self.entries[at as usize].1,
        }
    }

    /// The value of `key`, which becomes `value` if there is none.
    #[inline(always)]
    pub fn get_or_insert(&mut self, key: &Key<W>, value: u32) -> u32 {
        let slot = self.slot(key);
        let at = &mut self.slots[slot];
        if *at != NONE {
            return self.entries[*at as usize].1;
        }
        *at = self.entries.len() as u32;
        self.entries.push((*key, value));
        if self.entries.len() * 4 > self.slots.len() {
            self.grow();
        }
        value
    }

    /// All keys and their values, in the order in which they came.
    pub fn entries(&self) -> &[(Key<W>, u32)] {
        &self.entries
    }

    /// The slot of `key`, or that where it would go.
    #[inline(always)]
    fn slot(&self, key: &Key<W>) -> usize {
        let mask = self.slots.len() - 1;
        let hash = key
            .iter()
            .fold(0u64, |h, word| (h.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        // The high bits of a product depend on all bits of its factors.
        let mut slot = (hash >> self.shift) as usize;
        loop {
            let at = self.slots[slot & mask];
            if at == NONE || self.entries[at as usize].0 == *key {
                return slot & mask;
            }
            slot += 1;
        }
    }

    #[cold]
    fn grow(&mut self) {
        let mut larger = Self::with_room(self.slots.len() / 2);
        for (key, value) in self.entries.drain(..) {
            larger.get_or_insert(&key, value);
        }
        *self = larger;
    }
}
