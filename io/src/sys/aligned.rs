//! Buffers that O_DIRECT accepts.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The alignment of every buffer: a page, which satisfies every device's DMA rule.
const ALIGN: usize = 4096;

/// A page-aligned buffer of bytes, zeroed when made.
pub struct AlignedBuf {
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer is exclusively owned memory without interior sharing, so it may move between threads.
unsafe impl Send for AlignedBuf {}
// SAFETY: shared access hands out `&[u8]` only.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If `len` is 0 or above `isize::MAX`: lengths come from geometry, never from input.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        assert!(len > 0, "an I/O moves at least one byte");
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero (asserted above).
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(raw) else { handle_alloc_error(layout) };
        AlignedBuf { at, len }
    }

    /// A copy of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is empty.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        buf
    }

    fn layout(len: usize) -> Layout {
        match Layout::from_size_align(len, ALIGN) {
            Ok(layout) => layout,
            Err(_) => unreachable!("a buffer of {len} bytes is larger than the address space"),
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `at` points to `len` initialised bytes that this value owns.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `at` points to `len` initialised bytes that this value owns, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl PartialEq for AlignedBuf {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for AlignedBuf {}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this very layout, and freed once.
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
}
