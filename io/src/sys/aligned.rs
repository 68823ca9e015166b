//! Buffers that O_DIRECT accepts.
//!
//! A clone shares the memory until one of the two is written: what is handed from a read to whoever looks at it, or kept
//! beside a write in flight, is not copied.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

/// The alignment of every buffer: a page, which satisfies every device's DMA rule.
const ALIGN: usize = 4096;

/// A page-aligned buffer of bytes, zeroed when made.
#[derive(Clone, PartialEq, Eq)]
pub struct AlignedBuf(Arc<Memory>);

impl AlignedBuf {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If `len` is 0 or above `isize::MAX`: lengths come from geometry, never from input.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        AlignedBuf(Arc::new(Memory::zeroed(len)))
    }

    /// A copy of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is empty.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        AlignedBuf(Arc::new(Memory::from_slice(bytes)))
    }

    /// Whether a clone shares the memory, so that the next write copies it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for AlignedBuf {
    /// Copies the bytes first if a clone shares them.
    fn deref_mut(&mut self) -> &mut [u8] {
        Arc::make_mut(&mut self.0).bytes_mut()
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len())
    }
}

/// The memory of one buffer, and of its clones.
struct Memory {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is owned without interior sharing, so it may move between threads.
unsafe impl Send for Memory {}
// SAFETY: shared access hands out `&[u8]` only.
unsafe impl Sync for Memory {}

impl Memory {
    fn zeroed(len: usize) -> Self {
        assert!(len > 0, "an I/O moves at least one byte");
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero (asserted above).
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Memory { at, len }
    }

    fn from_slice(bytes: &[u8]) -> Self {
        assert!(!bytes.is_empty(), "an I/O moves at least one byte");
        let layout = Self::layout(bytes.len());
        // SAFETY: the layout's size is not zero (asserted above).
        let raw = unsafe { alloc(layout) };
        let Some(at) = NonNull::new(raw) else { handle_alloc_error(layout) };
        // SAFETY: `at` is a new allocation of `bytes.len()` bytes, which cannot overlap with `bytes`.
        unsafe { bytes.as_ptr().copy_to_nonoverlapping(at.as_ptr(), bytes.len()) };
        Memory { at, len: bytes.len() }
    }

    fn layout(len: usize) -> Layout {
        match Layout::from_size_align(len, ALIGN) {
            Ok(layout) => layout,
            Err(_) => unreachable!("a buffer of {len} bytes is larger than the address space"),
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: `at` points to `len` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `at` points to `len` initialised bytes that this value owns, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self::from_slice(self.bytes())
    }
}

impl PartialEq for Memory {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` or `from_slice` with this very layout, and freed once.
        unsafe { dealloc(self.at.as_ptr(), Self::layout(self.len)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_zeroed_and_cloneable() {
        let mut buf = AlignedBuf::zeroed(512);
        assert_eq!(buf.as_ptr().addr() % ALIGN, 0);
        assert!(buf.iter().all(|b| *b == 0));
        buf[511] = 7;
        assert_eq!(buf.clone(), buf);
    }

    #[test]
    fn a_clone_keeps_what_it_was_cloned_from() {
        let mut buf = AlignedBuf::zeroed(512);
        let before = buf.clone();
        buf[0] = 1;
        assert_eq!((before[0], buf[0]), (0, 1));
    }
}
