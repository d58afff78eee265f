//! The lab: a real Linux kernel with real KMS as an ordinary process, on any machine.
//!
//! Owns the kernel's build, the guest's start and end, and the test and demo commands. The module [`vkms`] is also for
//! programs inside the guest: it builds display devices and finds cards by driver. Needs no system library, because it
//! is what installs them. Owns nothing of primeway itself.

pub mod archive;
mod awake;
pub mod bench;
pub mod cache;
pub mod demo;
pub mod guest;
pub mod initramfs;
pub mod kernel;
pub mod layout;
pub mod packages;
pub mod progress;
pub mod qemu;
pub mod request;
pub mod run;
pub mod sid;
mod sys;
pub mod tally;
pub mod testing;
pub mod vkms;
