//! The fixed, zero-padded character arrays of the wire (A 3).
//!
//! Shapes: a 48-byte name, which may fill all 48 bytes with no NUL; a 1024-byte path and a 128-byte killpath
//! argument, which end at a NUL. The bytes after the first NUL mean nothing but are kept as they came, so that what
//! is decoded encodes to the same bytes; equality, like sanlock's, is over the whole array. Errors: text that does
//! not fit is refused with its length and the room there is.

use std::fmt;

/// Bytes up to, not including, the first NUL.
fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or(&[])
}

fn escaped(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
        _ => write!(f, "{}", bytes.escape_ascii()),
    }
}

/// Text that does not fit its place on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Longer than the array.
    #[error("{found} bytes long, at most {expected} fit")]
    TooLong {
        /// How many bytes were given.
        found: usize,
        /// How many bytes there is room for.
        expected: usize,
    },
    /// A NUL inside, which would cut the text short at the receiver.
    #[error("contains a NUL byte at {offset}")]
    Nul {
        /// Where the first NUL stands.
        offset: usize,
    },
}

fn checked(bytes: &[u8], room: usize) -> Result<&[u8], TextError> {
    if bytes.len() > room {
        return Err(TextError::TooLong { found: bytes.len(), expected: room });
    }
    match bytes.iter().position(|b| *b == 0) {
        Some(offset) => Err(TextError::Nul { offset }),
        None => Ok(bytes),
    }
}

/// A lockspace, resource, host or owner name: 48 bytes, all of which may be used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name48([u8; 48]);

impl Name48 {
    /// The empty name.
    pub const EMPTY: Self = Self([0; 48]);

    /// A name from text: at most 48 bytes, no NUL.
    pub fn new(text: impl AsRef<[u8]>) -> Result<Self, TextError> {
        let text = checked(text.as_ref(), 48)?;
        Ok(Self::cut(text))
    }

    /// The first 48 bytes of `text`, as sanlock cuts a lockspace name that is too long.
    #[must_use]
    pub fn cut(text: &[u8]) -> Self {
        let mut raw = [0; 48];
        for (to, from) in raw.iter_mut().zip(text) {
            *to = *from;
        }
        Self(raw)
    }

    /// A name exactly as it stood on the wire.
    #[must_use]
    pub const fn from_raw(raw: [u8; 48]) -> Self {
        Self(raw)
    }

    /// All 48 bytes.
    #[must_use]
    pub const fn raw(&self) -> &[u8; 48] {
        &self.0
    }

    /// The name itself: the bytes before the first NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        until_nul(&self.0)
    }

    /// Whether the name has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }
}

impl Default for Name48 {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl fmt::Display for Name48 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escaped(self.as_bytes(), f)
    }
}

impl fmt::Debug for Name48 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.trim_ascii_end_nul().escape_ascii())
    }
}

/// The array without its trailing zeros, so that Debug shows stray bytes after a NUL but not the padding.
trait TrimNul {
    fn trim_ascii_end_nul(&self) -> &[u8];
}

impl<const N: usize> TrimNul for [u8; N] {
    fn trim_ascii_end_nul(&self) -> &[u8] {
        let used = self.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        self.get(..used).unwrap_or(&[])
    }
}

/// NUL-terminated text in an array of `N` bytes, on the heap (a path is a kilobyte).
#[derive(Clone, PartialEq, Eq)]
pub struct FixedText<const N: usize>(Box<[u8; N]>);

/// The path of a disk: 1024 bytes, 1023 of them usable.
pub type DiskPath = FixedText<1024>;
/// The program or the arguments of a KILLPATH: 128 bytes, 127 of them usable.
pub type KillText = FixedText<128>;

impl<const N: usize> FixedText<N> {
    /// Text of at most N - 1 bytes without a NUL.
    pub fn new(text: impl AsRef<[u8]>) -> Result<Self, TextError> {
        let text = checked(text.as_ref(), N.saturating_sub(1))?;
        let mut raw = Box::new([0; N]);
        for (to, from) in raw.iter_mut().zip(text) {
            *to = *from;
        }
        Ok(Self(raw))
    }

    /// The array exactly as it stood on the wire.
    #[must_use]
    pub fn from_raw(raw: [u8; N]) -> Self {
        Self(Box::new(raw))
    }

    /// All N bytes.
    #[must_use]
    pub fn raw(&self) -> &[u8; N] {
        &self.0
    }

    /// The text: the bytes before the first NUL, and never the last byte, which sanlock forces to NUL.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let text = until_nul(&self.0[..]);
        text.get(..N.saturating_sub(1)).unwrap_or(text)
    }

    /// Whether there is no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }
}

impl<const N: usize> Default for FixedText<N> {
    fn default() -> Self {
        Self(Box::new([0; N]))
    }
}

impl<const N: usize> fmt::Display for FixedText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escaped(self.as_bytes(), f)
    }
}

impl<const N: usize> fmt::Debug for FixedText<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.trim_ascii_end_nul().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_fill_all_48_bytes_and_a_path_must_leave_one() {
        let name = Name48::new([b'n'; 48]).unwrap();
        assert_eq!(name.as_bytes(), [b'n'; 48]);
        assert_eq!(Name48::new([b'n'; 49]), Err(TextError::TooLong { found: 49, expected: 48 }));
        assert_eq!(DiskPath::new([b'p'; 1023]).unwrap().as_bytes().len(), 1023);
        assert_eq!(DiskPath::new([b'p'; 1024]).unwrap_err(), TextError::TooLong { found: 1024, expected: 1023 });
        assert_eq!(Name48::new(b"a\0b"), Err(TextError::Nul { offset: 1 }));
    }

    #[test]
    fn bytes_after_the_nul_are_kept_but_not_shown() {
        let mut raw = [0; 48];
        raw[..4].copy_from_slice(b"ab\0c");
        let name = Name48::from_raw(raw);
        assert_eq!(name.as_bytes(), b"ab");
        assert_eq!(name.raw(), &raw);
        assert_eq!(name.to_string(), "ab");
        assert_ne!(name, Name48::new("ab").unwrap(), "names are compared over all 48 bytes");
    }

    #[test]
    fn control_bytes_and_broken_utf8_are_printed_escaped() {
        assert_eq!(Name48::new(b"a\nb").unwrap().to_string(), "a\\nb");
        assert_eq!(Name48::new(b"a\xffb").unwrap().to_string(), "a\\xffb");
        assert_eq!(Name48::new("zürich").unwrap().to_string(), "zürich");
    }

    #[test]
    fn a_path_without_nul_is_read_as_1023_bytes() {
        assert_eq!(DiskPath::from_raw([b'p'; 1024]).as_bytes().len(), 1023);
    }
}
