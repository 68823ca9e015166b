//! What the kernel does for us, and all `unsafe` of the project: aligned buffers, block devices, watchdog devices,
//! processes and their rights, memory locking.
#![allow(unsafe_code)]

pub mod aligned;
pub mod linux;
pub mod mark;
pub mod memory;
pub mod process;
pub mod rights;
pub mod watchdog;
