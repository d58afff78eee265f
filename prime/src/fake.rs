//! A device that behaves like the kernel, for this crate's tests: one file, lowest-free handles, one handle per buffer.
