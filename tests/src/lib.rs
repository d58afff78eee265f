//! Real clients, an independent checker and the kernel cases of primeway.
//!
//! This crate sees the compositor only as a user does: through Wayland, through its control socket, and
//! through what the kernel says about it. `client` and `buffer` make the clients, `picture`, `palette` and `crc` say
//! what must be seen, `debugfs` and `process` look at the kernel and at other processes, `check` judges and `session`
//! starts everything. It builds whatever state the compositor is in: nothing here links it. The in-process cases do,
//! and keep what they need for that in `tests/headless_support`.
//!
//! `contract` needs no compositor: it holds the kernel, and `drm-prime`'s model of it, to what `drm-prime` relies on.

pub mod bench;
pub mod buffer;
pub mod check;
pub mod client;
pub mod contract;
pub mod crc;
pub mod ctl;
pub mod debugfs;
pub mod demo;
pub mod drm_node;
pub mod format;
pub mod kernel_cases;
pub mod kms_master;
pub mod mouse;
pub mod palette;
pub mod picture;
pub mod process;
pub mod screen;
pub mod session;
pub mod stage;
pub mod terminals;
