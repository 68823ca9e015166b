//! Little-endian fields in fixed buffers, for the record codecs.
//!
//! Offsets are constants of the codec; a slice that is too short is a programming error and never depends on input,
//! because every decoder takes a slice whose length it has checked once.

use byteorder::{ByteOrder, LittleEndian};

/// The u16 at `at`.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    LittleEndian::read_u16(&bytes[at..at + 2])
}

/// The u32 at `at`.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    LittleEndian::read_u32(&bytes[at..at + 4])
}

/// The u64 at `at`.
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    LittleEndian::read_u64(&bytes[at..at + 8])
}

/// The `N` bytes at `at`.
#[must_use]
pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// Stores a u16 at `at`.
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    LittleEndian::write_u16(&mut bytes[at..at + 2], value);
}

/// Stores a u32 at `at`.
pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    LittleEndian::write_u32(&mut bytes[at..at + 4], value);
}

/// Stores a u64 at `at`.
pub fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    LittleEndian::write_u64(&mut bytes[at..at + 8], value);
}

/// Stores bytes at `at`.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Whether every byte is zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}
