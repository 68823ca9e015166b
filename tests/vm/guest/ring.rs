//! A disk that is written through io_uring, as QEMU's may be: a write that is under way does not keep its process from ending, and
//! goes on without it.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use holdfast_io::sys::aligned::AlignedBuf;
use io_uring::{IoUring, opcode, types};

/// One write at a time.
pub struct Ring {
    ring: IoUring,
    file: File,
    /// What is written: it stays where it is until the kernel has done with it.
    block: AlignedBuf,
}

impl Ring {
    pub fn new(file: File, block: usize) -> io::Result<Self> {
        Ok(Ring { ring: IoUring::new(4)?, file, block: AlignedBuf::zeroed(block) })
    }

    /// Writes the block that begins with these bytes, and waits for that to be over.
    pub fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.block.fill(0);
        let room = self.block.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?;
        room.copy_from_slice(bytes);
        let length = u32::try_from(self.block.len()).map_err(io::Error::other)?;
        let write = opcode::Write::new(types::Fd(self.file.as_raw_fd()), self.block.as_ptr(), length);
        // SAFETY: the descriptor and the block live as long as the ring, and neither is touched before the completion is there: this
        // is the only write, and nothing else has the block.
        unsafe { self.ring.submission().push(&write.offset(at).build()) }.map_err(io::Error::other)?;
        self.ring.submit_and_wait(1)?;
        let result = self.ring.completion().next().map_or(0, |done| done.result());
        match usize::try_from(result) {
            Ok(written) if written == self.block.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }
}
