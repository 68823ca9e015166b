//! What several test files share: every decoder behind one function of bytes, for the smoke test and the fuzz targets.

#![forbid(unsafe_code)]

pub mod decoders;
