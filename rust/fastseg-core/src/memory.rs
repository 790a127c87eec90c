//! Large arrays whose pages are kept and handed on.
//!
//! At image size the kernel's work of mapping and zeroing fresh pages costs as much as several
//! mean-field iterations, so a [`Workspace`] keeps the arrays of one call for the next.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a cache line, to which every array is aligned.
const LINE: usize = 64;
/// Bytes of a huge page, to which arrays of at least that size are aligned.
const HUGE: usize = 2 << 20;

/// Keeps up to a number of bytes of arrays that are not in use.
#[derive(Debug, Default)]
pub struct Workspace {
    limit: Mutex<usize>,
    free: Mutex<Vec<Block>>,
}

impl Workspace {
    /// A workspace that keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: Mutex::new(limit), free: Mutex::default() })
    }

    /// Gives all arrays that are not in use back to the system.
    pub fn clear(&self) {
        lock(&self.free).clear();
    }

    /// How many bytes are kept and not in use.
    pub fn bytes(&self) -> usize {
        lock(&self.free).iter().map(|block| block.bytes).sum()
    }

    /// The most bytes that are kept.
    pub fn limit(&self) -> usize {
        *lock(&self.limit)
    }

    /// Sets the most bytes that are kept; drops what exceeds it.
    pub fn set_limit(&self, limit: usize) {
        *lock(&self.limit) = limit;
        let mut free = lock(&self.free);
        while free.iter().map(|block| block.bytes).sum::<usize>() > limit {
            free.remove(0);
        }
    }

    /// An array of `len` values, zero or left over from an earlier use.
    pub fn take<T: Plain>(self: &Arc<Self>, len: usize) -> Buffer<T> {
        let bytes = len * size_of::<T>();
        let mut free = lock(&self.free);
        let fit = (0..free.len())
            .filter(|&i| free[i].bytes >= bytes && free[i].bytes / 2 <= bytes)
            .min_by_key(|&i| free[i].bytes);
        let block = match fit {
            Some(i) => free.remove(i),
            None => {
                drop(free);
                Block::new(bytes)
            }
        };
        Buffer { block: Some(block), len, workspace: self.clone(), of: std::marker::PhantomData }
    }

    fn put_back(&self, block: Block) {
        let limit = self.limit();
        if block.bytes > limit {
            return;
        }
        let mut free = lock(&self.free);
        let mut kept: usize = free.iter().map(|block| block.bytes).sum();
        // The oldest go: what was in use last is wanted again next, not that of an earlier size.
        while kept + block.bytes > limit {
            kept -= free.remove(0).bytes;
        }
        free.push(block);
    }
}

/// A lock whose holder cannot have left the data half changed: a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Types for which any bits are a value.
///
/// # Safety
/// Every bit pattern must be valid and the type must need no drop.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: any bits are a float.
unsafe impl Plain for f32 {}
// SAFETY: any bits are an integer.
unsafe impl Plain for u16 {}
// SAFETY: any bits are an integer.
unsafe impl Plain for u32 {}

/// Zeros, at first.
#[derive(Debug)]
struct Block {
    pages: Pages,
    offset: usize,
    bytes: usize,
}

impl Block {
    fn new(bytes: usize) -> Self {
        let align = if bytes >= HUGE { HUGE } else { LINE };
        let pages = Pages::new(bytes + align);
        let offset = pages.start().align_offset(align);
        let block = Self { pages, offset, bytes };
        if bytes >= HUGE {
            block.advise_huge_pages();
        }
        block
    }

    fn start(&self) -> *mut u8 {
        self.pages.start().wrapping_add(self.offset)
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    fn advise_huge_pages(&self) {
        // The last ones, which are not full, remain small.
        let whole = self.bytes / HUGE * HUGE;
        // SAFETY: the range lies inside the allocation; the advice changes no contents.
        unsafe { libc::madvise(self.start().cast(), whole, libc::MADV_HUGEPAGE) };
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    fn advise_huge_pages(&self) {}
}

/// Fresh pages, of the system's own making: blocks that are kept would lie between other arrays in
/// the allocator's memory, which could not be given back then, nor hold a larger array.
#[cfg(all(unix, not(miri)))]
#[derive(Debug)]
struct Pages {
    start: *mut libc::c_void,
    bytes: usize,
}

// SAFETY: the pages are this value's alone, and any thread may use and unmap them.
#[cfg(all(unix, not(miri)))]
unsafe impl Send for Pages {}
// SAFETY: as above; nothing is written through a shared reference.
#[cfg(all(unix, not(miri)))]
unsafe impl Sync for Pages {}

#[cfg(all(unix, not(miri)))]
impl Pages {
    fn new(bytes: usize) -> Self {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANON;
        // SAFETY: a mapping at a new address touches no memory that is in use.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            handle_alloc_error(Layout::from_size_align(bytes, LINE).expect("a valid size"));
        }
        Self { start, bytes }
    }

    fn start(&self) -> *mut u8 {
        self.start.cast()
    }
}

#[cfg(all(unix, not(miri)))]
impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: these pages were mapped by `new`, and nobody uses them any more.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

#[cfg(not(all(unix, not(miri))))]
#[derive(Debug)]
struct Pages(Vec<u128>);

#[cfg(not(all(unix, not(miri))))]
impl Pages {
    fn new(bytes: usize) -> Self {
        Self(vec![0; bytes.div_ceil(size_of::<u128>())])
    }

    fn start(&self) -> *mut u8 {
        self.0.as_ptr().cast::<u8>().cast_mut()
    }
}

/// An array of plain values, aligned to a cache line, that goes back to its workspace.
///
/// Its contents are unspecified (but initialised) until written.
#[derive(Debug)]
pub struct Buffer<T: Plain> {
    block: Option<Block>,
    len: usize,
    workspace: Arc<Workspace>,
    of: std::marker::PhantomData<T>,
}

impl<T: Plain> Buffer<T> {
    fn start(&self) -> *mut T {
        self.block.as_ref().map_or(LINE as *mut T, |block| block.start().cast())
    }
}

impl<T: Plain> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the block holds `len` values from its aligned start; any bits are a value.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl<T: Plain> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and the block is this buffer's alone.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl<T: Plain> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.workspace.put_back(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back() {
        let workspace = Workspace::new(1 << 20);
        let mut a = workspace.take::<f32>(1000);
        a.fill(3.0);
        assert_eq!(a.as_ptr() as usize % LINE, 0);
        drop(a);
        assert_eq!(workspace.bytes(), 4000);
        let b = workspace.take::<u32>(990);
        assert_eq!(b[0], 3f32.to_bits());
        assert_eq!(workspace.bytes(), 0);
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let workspace = Workspace::new(5000);
        let (a, b) = (workspace.take::<f32>(1000), workspace.take::<f32>(1000));
        drop((a, b));
        assert_eq!(workspace.bytes(), 4000);
        workspace.set_limit(0);
        assert_eq!(workspace.bytes(), 0);
    }

    #[test]
    fn the_latest_are_kept() {
        let workspace = Workspace::new(5000);
        let mut small = workspace.take::<f32>(100);
        small.fill(3.0);
        drop(workspace.take::<f32>(1200));
        drop(small);
        assert_eq!(workspace.bytes(), 400);
        assert_eq!(workspace.take::<f32>(100)[0], 3.0);
        drop(workspace.take::<f32>(5000));
        assert_eq!(workspace.bytes(), 400);
    }

    #[test]
    fn large_arrays_start_on_a_huge_page() {
        let workspace = Workspace::new(0);
        let a = workspace.take::<u32>(HUGE);
        assert_eq!(a.as_ptr() as usize % HUGE, 0);
        assert!(a.iter().all(|&x| x == 0));
    }
}
