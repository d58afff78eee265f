//! Random scripts of the contract's calls: [`Step`], how they are made up, and the few that are written by hand.
//!
//! Owns what may be asked. Slots and numbers are few and small, so that random calls meet each other. How a script that failed
//! becomes shorter is in `shrink`, playing one is `differential`'s.

use std::fmt;

use proptest::prelude::*;

use super::{
    CLOEXEC, Device, FB_MODIFIERS, FENCE_WRITE, Fb2, Memory, Node, PAGE, RDWR, READABLE, SYNC_END, SYNC_READ,
    SYNC_WRITE, WRITABLE, Whence,
};

/// The files of a script, by number.
pub const FILES: [(Device, Node); 5] = [
    (Device::Vkms, Node::Primary),
    (Device::Vkms, Node::Primary),
    (Device::Vgem, Node::Primary),
    (Device::Vgem, Node::Primary),
    (Device::Vgem, Node::Render),
];
/// Slots for dma-bufs.
pub const FDS: usize = 5;
/// Slots for mappings, sync files and framebuffers each.
pub const FEW: usize = 3;

/// A number of a file, of a slot, of a handle.
pub type Index = usize;

/// What a script gives `FD_TO_HANDLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// What is in a slot; a number that is no descriptor if it is empty.
    Fd(Index),
    /// A descriptor opened with `O_PATH`.
    OPath,
    /// `/dev/null`.
    DevNull,
    /// A memory file.
    Memfd,
    /// The file itself.
    Drm,
}

/// What a script gives `ADDFB2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// 32 by 32 pixels in a page.
    Page,
    /// NV12 of 32 by 32, which fits a page too.
    Nv12,
    /// 32 by 32 with the modifier flag.
    Linear,
    /// 64 by 64 pixels: four pages.
    Square,
    /// A pitch of 0.
    NoPitch,
    /// An unknown flag.
    BadFlag,
    /// A modifier that no plane has.
    Tiled,
    /// A format that no plane has.
    BadFormat,
    /// Past 4 GiB.
    TooFar,
    /// Smaller than the device takes.
    Tiny,
}

/// One call. `to` is the slot that its result goes to; what was there is closed afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    CreateDumb { file: Index, width: u32, height: u32, bpp: u32 },
    Export { file: Index, handle: u32, flags: u32, to: Index },
    Import { file: Index, given: Given },
    GemClose { file: Index, handle: u32 },
    AddFb { file: Index, handle: u32, shape: Shape, to: Index },
    GetFb2 { file: Index, fb: Index },
    GetFb { file: Index, fb: Index },
    RmFb { file: Index, fb: Index },
    CloseFb { file: Index, fb: Index, pad: u32 },
    Flink { file: Index, handle: u32 },
    GemOpen { file: Index, name: u32 },
    MapDumb { file: Index, handle: u32 },
    DestroyDumb { file: Index, handle: u32 },
    ChangeHandle { file: Index, handle: u32 },
    GetCap { file: Index, cap: u64 },
    Close { fd: Index },
    Dup { fd: Index, to: Index },
    SameFile { a: Index, b: Index },
    Mmap { fd: Index, page: u64, pages: u64, writable: bool, to: Index },
    MmapDumb { file: Index, handle: u32, to: Index },
    Poke { map: Index, value: u8 },
    Unmap { map: Index },
    Seek { fd: Index, offset: i64, whence: Whence },
    Read { fd: Index },
    Write { fd: Index },
    Truncate { fd: Index },
    Unknown { fd: Index },
    Reopen { fd: Index },
    Nonblock { fd: Index, on: bool },
    Sync { fd: Index, flags: u64 },
    FenceAttach { file: Index, handle: u32, flags: u32, pad: u32 },
    FenceSignal { file: Index, fence: u32, flags: u32 },
    Poll { fd: Index, events: u16 },
    ExportSync { fd: Index, flags: u32, to: Index },
    ImportSync { fd: Index, sync: Index, flags: u32 },
    Udmabuf { memory: Memory, offset: u64, size: u64, to: Index },
    CloseFile { file: Index },
    OpenFile { file: Index },
    OpenVkmsRender,
    Master { file: Index, on: bool },
    Admin { on: bool },
    Lease { file: Index, to: Index },
}

impl Op {
    /// The call's name in tables.
    #[must_use]
    pub fn call(&self) -> &'static str {
        match self {
            Op::CreateDumb { .. } => "CREATE_DUMB",
            Op::Export { .. } => "HANDLE_TO_FD",
            Op::Import { .. } => "FD_TO_HANDLE",
            Op::GemClose { .. } => "GEM_CLOSE",
            Op::AddFb { .. } => "ADDFB2",
            Op::GetFb2 { .. } => "GETFB2",
            Op::GetFb { .. } => "GETFB",
            Op::RmFb { .. } => "RMFB",
            Op::CloseFb { .. } => "CLOSEFB",
            Op::Flink { .. } => "GEM_FLINK",
            Op::GemOpen { .. } => "GEM_OPEN",
            Op::MapDumb { .. } => "MAP_DUMB",
            Op::DestroyDumb { .. } => "DESTROY_DUMB",
            Op::ChangeHandle { .. } => "GEM_CHANGE_HANDLE",
            Op::GetCap { .. } => "GET_CAP",
            Op::Close { .. } | Op::CloseFile { .. } => "close",
            Op::Dup { .. } => "dup",
            Op::SameFile { .. } => "kcmp",
            Op::Mmap { .. } => "mmap",
            Op::MmapDumb { .. } => "mmap of MAP_DUMB",
            Op::Poke { .. } => "store",
            Op::Unmap { .. } => "munmap",
            Op::Seek { .. } => "lseek",
            Op::Read { .. } => "read",
            Op::Write { .. } => "write",
            Op::Truncate { .. } => "ftruncate",
            Op::Unknown { .. } => "unknown ioctl",
            Op::Reopen { .. } => "open /proc/self/fd",
            Op::Nonblock { .. } => "F_SETFL",
            Op::Sync { .. } => "SYNC",
            Op::FenceAttach { .. } => "FENCE_ATTACH",
            Op::FenceSignal { .. } => "FENCE_SIGNAL",
            Op::Poll { .. } => "poll",
            Op::ExportSync { .. } => "EXPORT_SYNC_FILE",
            Op::ImportSync { .. } => "IMPORT_SYNC_FILE",
            Op::Udmabuf { .. } => "UDMABUF_CREATE",
            Op::OpenFile { .. } | Op::OpenVkmsRender => "open",
            Op::Master { on: true, .. } => "SET_MASTER",
            Op::Master { on: false, .. } => "DROP_MASTER",
            Op::Admin { .. } => "capset",
            Op::Lease { .. } => "CREATE_LEASE",
        }
    }
}

/// Prints `file: 0` as it is, and leaves the rest to the fields' own words.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |file: &Index| match FILES.get(*file) {
            Some((device, node)) => format!("{device:?}{node:?}{file}").to_lowercase(),
            None => format!("file{file}"),
        };
        let call = self.call();
        match self {
            Op::CreateDumb { file, width, height, bpp } => {
                write!(f, "{call}({}, {width}x{height}, {bpp} bits)", name(file))
            }
            Op::Export { file, handle, flags, to } => {
                write!(f, "{call}({}, handle {handle}, flags {flags:#x}) -> fd{to}", name(file))
            }
            Op::Import { file, given: Given::Fd(fd) } => write!(f, "{call}({}, fd{fd})", name(file)),
            Op::Import { file, given } => write!(f, "{call}({}, {given:?})", name(file)),
            Op::GemClose { file, handle }
            | Op::Flink { file, handle }
            | Op::MapDumb { file, handle }
            | Op::DestroyDumb { file, handle }
            | Op::ChangeHandle { file, handle } => write!(f, "{call}({}, handle {handle})", name(file)),
            Op::AddFb { file, handle, shape, to } => {
                write!(f, "{call}({}, handle {handle}, {shape:?}) -> fb{to}", name(file))
            }
            Op::GetFb2 { file, fb } | Op::GetFb { file, fb } | Op::RmFb { file, fb } => {
                write!(f, "{call}({}, fb{fb})", name(file))
            }
            Op::CloseFb { file, fb, pad } => write!(f, "{call}({}, fb{fb}, pad {pad})", name(file)),
            Op::GemOpen { file, name: number } => write!(f, "{call}({}, name {number})", name(file)),
            Op::GetCap { file, cap } => write!(f, "{call}({}, {cap:#x})", name(file)),
            Op::Close { fd }
            | Op::Read { fd }
            | Op::Write { fd }
            | Op::Truncate { fd }
            | Op::Unknown { fd }
            | Op::Reopen { fd } => write!(f, "{call}(fd{fd})"),
            Op::Dup { fd, to } => write!(f, "{call}(fd{fd}) -> fd{to}"),
            Op::SameFile { a, b } => write!(f, "{call}(fd{a}, fd{b})"),
            Op::Mmap { fd, page, pages, writable, to } => {
                let access = if *writable { "read and write" } else { "read" };
                write!(f, "{call}(fd{fd}, {pages} pages from {page}, {access}) -> map{to}")
            }
            Op::MmapDumb { file, handle, to } => {
                write!(f, "{call}({}, handle {handle}) -> map{to}", name(file))
            }
            Op::Poke { map, value } => write!(f, "{call}(map{map}, {value})"),
            Op::Unmap { map } => write!(f, "{call}(map{map})"),
            Op::Seek { fd, offset, whence } => write!(f, "{call}(fd{fd}, {offset}, {whence:?})"),
            Op::Nonblock { fd, on } => write!(f, "{call}(fd{fd}, O_NONBLOCK {on})"),
            Op::Sync { fd, flags } => write!(f, "{call}(fd{fd}, {flags:#x})"),
            Op::FenceAttach { file, handle, flags, pad } => {
                write!(f, "{call}({}, handle {handle}, flags {flags}, pad {pad})", name(file))
            }
            Op::FenceSignal { file, fence, flags } => {
                write!(f, "{call}({}, fence {fence}, flags {flags})", name(file))
            }
            Op::Poll { fd, events } => write!(f, "{call}(fd{fd}, {events:#x})"),
            Op::ExportSync { fd, flags, to } => write!(f, "{call}(fd{fd}, {flags}) -> sync{to}"),
            Op::ImportSync { fd, sync, flags } => write!(f, "{call}(fd{fd}, sync{sync}, {flags})"),
            Op::Udmabuf { memory, offset, size, to } => {
                write!(f, "{call}({memory:?}, {size} bytes at {offset}) -> fd{to}")
            }
            Op::CloseFile { file } | Op::OpenFile { file } => write!(f, "{call}({})", name(file)),
            Op::OpenVkmsRender => write!(f, "{call}(vkms' render node)"),
            Op::Master { file, .. } => write!(f, "{call}({})", name(file)),
            Op::Admin { on } => write!(f, "{call}(CAP_SYS_ADMIN {on})"),
            Op::Lease { file, to } => write!(f, "{call}({}, of nothing) -> {}", name(file), name(to)),
        }
    }
}

/// A call, perhaps made while no descriptor is left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The call.
    pub op: Op,
    /// Whether its numbers only choose among what there is: a slot with something in it, a handle that is open.
    pub aimed: bool,
    /// Whether the limit of descriptors is reached.
    pub starved: bool,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aimed = if self.aimed { "something like " } else { "" };
        let starved = if self.starved { " with no descriptor left" } else { "" };
        write!(f, "{aimed}{:?}{starved}", self.op)
    }
}

impl From<Op> for Step {
    fn from(op: Op) -> Step {
        Step { op, aimed: false, starved: false }
    }
}

impl Shape {
    /// The request for a handle.
    #[must_use]
    pub fn request(self, handle: u32) -> Fb2 {
        let page = Fb2::xrgb(handle, 32, 32);
        match self {
            Shape::Page => page,
            Shape::Nv12 => Fb2::nv12(handle, 32, 32),
            Shape::Linear => Fb2 { flags: FB_MODIFIERS, ..page },
            Shape::Square => Fb2::xrgb(handle, 64, 64),
            Shape::NoPitch => Fb2 { pitches: [0; 4], ..page },
            Shape::BadFlag => Fb2 { flags: 8, ..page },
            Shape::Tiled => Fb2 { flags: FB_MODIFIERS, modifiers: [(1 << 56) | 1, 0, 0, 0], ..page },
            Shape::BadFormat => Fb2 { format: u32::from_le_bytes(*b"XR30"), ..page },
            Shape::TooFar => Fb2 { offsets: [u32::MAX, 0, 0, 0], ..page },
            Shape::Tiny => Fb2 { width: 9, height: 9, ..page },
        }
    }
}

fn file() -> impl Strategy<Value = Index> {
    prop_oneof![6 => Just(0), 2 => Just(1), 6 => Just(2), 3 => Just(3), 1 => Just(4)]
}

/// Few numbers, most of them in use; 0 and one that nobody has.
fn handle() -> impl Strategy<Value = u32> {
    prop_oneof![10 => Just(1), 5 => Just(2), 2 => 3_u32..7, 1 => prop_oneof![Just(0), Just(4711)]]
}

fn fd() -> impl Strategy<Value = Index> {
    prop_oneof![5 => Just(0), 4 => Just(1), 2 => Just(2), 1 => 3..FDS]
}

fn few() -> impl Strategy<Value = Index> {
    prop_oneof![4 => Just(0), 2 => Just(1), 1 => 2..FEW]
}

fn seldom() -> impl Strategy<Value = u32> {
    prop_oneof![9 => Just(0_u32), 1 => Just(1)]
}

fn buffers() -> impl Strategy<Value = Op> {
    let size = prop_oneof![
        20 => Just((32, 32, 32)),
        6 => Just((64, 64, 32)),
        1 => Just((33, 7, 24)),
        1 => Just((0, 0, 0)),
        1 => Just((0x1_0000, 0x1_0000, 32)),
    ];
    let flags = prop_oneof![16 => Just(RDWR | CLOEXEC), 6 => Just(0), 4 => Just(RDWR), 1 => Just(1_u32)];
    let given = prop_oneof![
        40 => fd().prop_map(Given::Fd),
        1 => Just(Given::OPath),
        1 => Just(Given::DevNull),
        1 => Just(Given::Memfd),
        1 => Just(Given::Drm),
    ];
    prop_oneof![
        18 => (file(), size).prop_map(|(file, (width, height, bpp))| Op::CreateDumb { file, width, height, bpp }),
        14 => (file(), handle(), flags, fd())
            .prop_map(|(file, handle, flags, to)| Op::Export { file, handle, flags, to }),
        14 => (file(), given).prop_map(|(file, given)| Op::Import { file, given }),
        6 => (file(), handle()).prop_map(|(file, handle)| Op::GemClose { file, handle }),
        2 => (file(), handle()).prop_map(|(file, handle)| Op::Flink { file, handle }),
        3 => (file(), prop_oneof![4 => Just(1_u32), 2 => Just(2), 1 => Just(0)])
            .prop_map(|(file, name)| Op::GemOpen { file, name }),
        1 => (file(), handle()).prop_map(|(file, handle)| Op::MapDumb { file, handle }),
        1 => (file(), handle()).prop_map(|(file, handle)| Op::DestroyDumb { file, handle }),
        1 => (file(), handle()).prop_map(|(file, handle)| Op::ChangeHandle { file, handle }),
        1 => (file(), prop::sample::select(vec![1_u64, 5, 0x10, 0xdead]))
            .prop_map(|(file, cap)| Op::GetCap { file, cap }),
    ]
}

fn framebuffers() -> impl Strategy<Value = Op> {
    let shape = prop_oneof![
        6 => Just(Shape::Page),
        3 => Just(Shape::Nv12),
        2 => Just(Shape::Linear),
        2 => Just(Shape::Square),
        1 => prop::sample::select(vec![
            Shape::NoPitch, Shape::BadFlag, Shape::Tiled, Shape::BadFormat, Shape::TooFar, Shape::Tiny,
        ]),
    ];
    // Most framebuffers are asked for where there can be some.
    let display = || prop_oneof![8 => Just(0), 3 => Just(1), 1 => 2..FILES.len()];
    prop_oneof![
        9 => (display(), handle(), shape, few())
            .prop_map(|(file, handle, shape, to)| Op::AddFb { file, handle, shape, to }),
        4 => (display(), few()).prop_map(|(file, fb)| Op::GetFb2 { file, fb }),
        2 => (display(), few()).prop_map(|(file, fb)| Op::GetFb { file, fb }),
        2 => (display(), few()).prop_map(|(file, fb)| Op::RmFb { file, fb }),
        2 => (display(), few(), seldom()).prop_map(|(file, fb, pad)| Op::CloseFb { file, fb, pad }),
    ]
}

fn descriptors() -> impl Strategy<Value = Op> {
    let whence = prop::sample::select(vec![Whence::End, Whence::Set, Whence::Cur]);
    let flags = prop::sample::select(vec![
        SYNC_READ,
        SYNC_READ | SYNC_END,
        SYNC_READ | SYNC_WRITE,
        SYNC_WRITE | SYNC_END,
        0,
        8,
    ]);
    prop_oneof![
        5 => fd().prop_map(|fd| Op::Close { fd }),
        3 => (fd(), fd()).prop_map(|(fd, to)| Op::Dup { fd, to }),
        1 => (fd(), fd()).prop_map(|(a, b)| Op::SameFile { a, b }),
        3 => (fd(), 0_u64..3, 1_u64..5, any::<bool>(), few())
            .prop_map(|(fd, page, pages, writable, to)| Op::Mmap { fd, page, pages, writable, to }),
        1 => (file(), handle(), few()).prop_map(|(file, handle, to)| Op::MmapDumb { file, handle, to }),
        3 => (few(), 1_u8..100).prop_map(|(map, value)| Op::Poke { map, value }),
        2 => few().prop_map(|map| Op::Unmap { map }),
        1 => (fd(), -1_i64..2, whence).prop_map(|(fd, offset, whence)| Op::Seek { fd, offset, whence }),
        1 => (fd(), any::<bool>()).prop_map(|(fd, on)| Op::Nonblock { fd, on }),
        1 => (fd(), flags).prop_map(|(fd, flags)| Op::Sync { fd, flags }),
        1 => (fd(), 0..5).prop_map(|(fd, which)| match which {
            0 => Op::Read { fd },
            1 => Op::Write { fd },
            2 => Op::Truncate { fd },
            3 => Op::Unknown { fd },
            _ => Op::Reopen { fd },
        }),
    ]
}

fn fences() -> impl Strategy<Value = Op> {
    // vkms has no such calls.
    let owner = || prop_oneof![6 => Just(2), 3 => 3..FILES.len(), 1 => 0_usize..2];
    let kind = || prop_oneof![5 => Just(0), 3 => Just(FENCE_WRITE), 1 => Just(2_u32)];
    let access = || prop_oneof![3 => Just(1_u32), 3 => Just(2), 2 => Just(3), 1 => Just(0), 1 => Just(4)];
    let events = prop::sample::select(vec![READABLE, WRITABLE, READABLE | WRITABLE]);
    prop_oneof![
        4 => (owner(), handle(), kind(), seldom())
            .prop_map(|(file, handle, flags, pad)| Op::FenceAttach { file, handle, flags, pad }),
        4 => (owner(), prop_oneof![6 => Just(1_u32), 3 => Just(2), 1 => Just(0)], seldom()).prop_map(|(file, fence, flags)| Op::FenceSignal { file, fence, flags }),
        3 => (fd(), events).prop_map(|(fd, events)| Op::Poll { fd, events }),
        3 => (fd(), access(), few()).prop_map(|(fd, flags, to)| Op::ExportSync { fd, flags, to }),
        2 => (fd(), few(), access()).prop_map(|(fd, sync, flags)| Op::ImportSync { fd, sync, flags }),
    ]
}

fn rest() -> impl Strategy<Value = Op> {
    let memory = prop_oneof![
        8 => Just(Memory::Sealed(4 * PAGE)),
        1 => Just(Memory::Unsealed(4 * PAGE)),
        1 => Just(Memory::WriteSealed(4 * PAGE)),
        1 => Just(Memory::DevNull),
        1 => Just(Memory::Bad),
    ];
    let range = prop_oneof![
        6 => (0_u64..3, 1_u64..4).prop_map(|(page, pages)| (page * PAGE, pages * PAGE)),
        1 => prop::sample::select(vec![(0, 0), (1, PAGE), (0, 1), (5 * PAGE, PAGE)]),
    ];
    prop_oneof![
        4 => (memory, range, fd())
            .prop_map(|(memory, (offset, size), to)| Op::Udmabuf { memory, offset, size, to }),
        3 => file().prop_map(|file| Op::CloseFile { file }),
        4 => file().prop_map(|file| Op::OpenFile { file }),
        1 => Just(Op::OpenVkmsRender),
        2 => (file(), any::<bool>()).prop_map(|(file, on)| Op::Master { file, on }),
        1 => prop::bool::weighted(0.7).prop_map(|on| Op::Admin { on }),
        1 => (0_usize..3, 0_usize..2).prop_map(|(file, to)| Op::Lease { file, to }),
    ]
}

/// Any step, with weights that let calls meet.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        12 => buffers(),
        5 => framebuffers(),
        6 => descriptors(),
        3 => fences(),
        2 => rest(),
    ];
    let starved = prop_oneof![30 => Just(false), 1 => Just(true)];
    // Numbers that shrink from aimed to plain are the ones to be printed.
    let aimed = prop::bool::weighted(0.85);
    (op, aimed, starved).prop_map(|(op, aimed, starved)| Step { op, aimed, starved })
}

/// What a script is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theme {
    /// All calls.
    Everything,
    /// Two files of a device that share buffers by name and by descriptor.
    Sharing,
}

pub(super) fn sharing() -> impl Strategy<Value = Step> {
    let file = || 2_usize..4;
    let handle = || prop_oneof![3 => Just(1_u32), 1 => Just(2)];
    let fd = || 0_usize..2;
    let name = prop_oneof![3 => Just(1_u32), 1 => Just(2)];
    let op = prop_oneof![
        2 => file().prop_map(|file| Op::CreateDumb { file, width: 32, height: 32, bpp: 32 }),
        2 => (file(), handle()).prop_map(|(file, handle)| Op::Flink { file, handle }),
        2 => (file(), name).prop_map(|(file, name)| Op::GemOpen { file, name }),
        4 => (file(), handle(), fd())
            .prop_map(|(file, handle, to)| Op::Export { file, handle, flags: RDWR | CLOEXEC, to }),
        4 => (file(), fd()).prop_map(|(file, fd)| Op::Import { file, given: Given::Fd(fd) }),
        1 => (file(), handle()).prop_map(|(file, handle)| Op::GemClose { file, handle }),
    ];
    op.prop_map(Step::from)
}

/// Scripts by hand for answers that chance meets too seldom.
#[must_use]
pub fn directed() -> Vec<(&'static str, Vec<Step>)> {
    let dumb = |file| Op::CreateDumb { file, width: 32, height: 32, bpp: 32 };
    let export = |file, handle, to| Op::Export { file, handle, flags: RDWR | CLOEXEC, to };
    let starved = |op| Step { op, aimed: false, starved: true };
    let steps = |ops: &[Op]| ops.iter().map(|op| Step::from(*op)).collect::<Vec<_>>();
    let udmabuf = |memory| Op::Udmabuf { memory, offset: 0, size: PAGE, to: 0 };
    let mut hunger = steps(&[dumb(2), export(2, 1, 0), Op::CloseFile { file: 3 }]);
    hunger.extend([
        starved(export(2, 1, 1)),
        starved(export(2, 4711, 1)),
        starved(Op::Dup { fd: 0, to: 1 }),
        starved(Op::ExportSync { fd: 0, flags: 1, to: 0 }),
        starved(udmabuf(Memory::Sealed(PAGE))),
        starved(Op::OpenFile { file: 3 }),
    ]);
    vec![
        ("no descriptor left", hunger),
        (
            "a render node",
            steps(&[
                dumb(4),
                dumb(2),
                export(2, 1, 0),
                Op::Import { file: 4, given: Given::Fd(0) },
                Op::MapDumb { file: 4, handle: 1 },
                Op::DestroyDumb { file: 4, handle: 1 },
                Op::Flink { file: 4, handle: 1 },
                Op::GemOpen { file: 4, name: 1 },
                Op::AddFb { file: 4, handle: 1, shape: Shape::Page, to: 0 },
                Op::RmFb { file: 4, fb: 0 },
                Op::CloseFb { file: 4, fb: 0, pad: 0 },
                Op::GetFb { file: 4, fb: 0 },
                Op::GetFb2 { file: 4, fb: 0 },
                Op::OpenVkmsRender,
            ]),
        ),
        (
            "no display",
            steps(&[
                dumb(2),
                Op::AddFb { file: 2, handle: 1, shape: Shape::Page, to: 0 },
                Op::RmFb { file: 2, fb: 0 },
                Op::CloseFb { file: 2, fb: 0, pad: 0 },
                Op::GetFb { file: 2, fb: 0 },
                Op::GetFb2 { file: 2, fb: 0 },
                Op::GetCap { file: 2, cap: 1 },
                Op::GetCap { file: 2, cap: 0xdead },
                Op::GetCap { file: 0, cap: 0xdead },
                Op::GetCap { file: 0, cap: 1 },
            ]),
        ),
        (
            "framebuffers",
            steps(&[
                dumb(0),
                Op::AddFb { file: 0, handle: 1, shape: Shape::Page, to: 0 },
                Op::AddFb { file: 0, handle: 1, shape: Shape::Nv12, to: 1 },
                Op::AddFb { file: 0, handle: 1, shape: Shape::TooFar, to: 2 },
                Op::AddFb { file: 0, handle: 4711, shape: Shape::Page, to: 2 },
                Op::AddFb { file: 0, handle: 1, shape: Shape::Square, to: 2 },
                Op::GetFb { file: 0, fb: 1 },
                Op::GetFb { file: 0, fb: 0 },
                Op::GetFb2 { file: 1, fb: 1 },
                Op::CloseFb { file: 0, fb: 0, pad: 1 },
                Op::CloseFb { file: 1, fb: 0, pad: 0 },
                Op::CloseFb { file: 0, fb: 0, pad: 0 },
                Op::RmFb { file: 0, fb: 1 },
                Op::RmFb { file: 0, fb: 1 },
                Op::GetFb { file: 0, fb: 1 },
                Op::GetFb2 { file: 0, fb: 1 },
            ]),
        ),
        (
            "fences",
            steps(&[
                dumb(2),
                export(2, 1, 0),
                Op::FenceAttach { file: 2, handle: 1, flags: FENCE_WRITE, pad: 0 },
                Op::FenceAttach { file: 2, handle: 1, flags: 0, pad: 0 },
                Op::FenceAttach { file: 2, handle: 4711, flags: 0, pad: 0 },
                Op::FenceAttach { file: 2, handle: 1, flags: 0, pad: 1 },
                Op::Poll { fd: 0, events: READABLE | WRITABLE },
                Op::ExportSync { fd: 0, flags: 3, to: 0 },
                udmabuf(Memory::Sealed(PAGE)),
                Op::ImportSync { fd: 0, sync: 0, flags: 2 },
                Op::Poll { fd: 0, events: WRITABLE },
                Op::ImportSync { fd: 0, sync: 1, flags: 2 },
                Op::ExportSync { fd: 0, flags: 0, to: 1 },
                Op::FenceSignal { file: 2, fence: 1, flags: 1 },
                Op::FenceSignal { file: 2, fence: 1, flags: 0 },
                Op::FenceSignal { file: 2, fence: 1, flags: 0 },
                Op::Poll { fd: 0, events: READABLE | WRITABLE },
                Op::Sync { fd: 0, flags: SYNC_WRITE },
                Op::Sync { fd: 0, flags: 8 },
            ]),
        ),
        (
            "memory",
            steps(&[
                udmabuf(Memory::Bad),
                udmabuf(Memory::DevNull),
                udmabuf(Memory::Unsealed(PAGE)),
                udmabuf(Memory::Sealed(PAGE)),
                Op::Import { file: 0, given: Given::Fd(0) },
                Op::MapDumb { file: 0, handle: 1 },
                Op::MapDumb { file: 0, handle: 2 },
                dumb(2),
                Op::Export { file: 2, handle: 1, flags: 0, to: 1 },
                Op::Mmap { fd: 1, page: 0, pages: 1, writable: true, to: 0 },
                Op::Mmap { fd: 1, page: 0, pages: 1, writable: false, to: 0 },
                Op::Mmap { fd: 1, page: 1, pages: 1, writable: false, to: 0 },
                Op::MmapDumb { file: 2, handle: 1, to: 1 },
                Op::Poke { map: 1, value: 7 },
                Op::Unmap { map: 0 },
                Op::Read { fd: 0 },
                Op::Write { fd: 0 },
                Op::Truncate { fd: 0 },
                Op::Unknown { fd: 0 },
                Op::Reopen { fd: 0 },
                Op::Nonblock { fd: 0, on: true },
                Op::SameFile { a: 0, b: 1 },
                Op::Seek { fd: 0, offset: 0, whence: Whence::End },
                Op::Seek { fd: 0, offset: 1, whence: Whence::End },
                Op::ChangeHandle { file: 2, handle: 1 },
                Op::MapDumb { file: 2, handle: 4711 },
                Op::DestroyDumb { file: 2, handle: 1 },
                Op::DestroyDumb { file: 2, handle: 1 },
            ]),
        ),
        (
            "masters",
            steps(&[
                dumb(0),
                Op::AddFb { file: 0, handle: 1, shape: Shape::Page, to: 0 },
                Op::Master { file: 1, on: true },
                Op::Master { file: 1, on: false },
                Op::Lease { file: 1, to: 1 },
                Op::Lease { file: 2, to: 1 },
                Op::Lease { file: 0, to: 1 },
                Op::Lease { file: 1, to: 1 },
                Op::Master { file: 1, on: true },
                Op::Master { file: 1, on: false },
                Op::Admin { on: false },
                Op::Master { file: 1, on: true },
                Op::Master { file: 1, on: false },
                Op::GetFb { file: 1, fb: 0 },
                Op::Master { file: 0, on: false },
                Op::GetFb { file: 0, fb: 0 },
                Op::GetFb2 { file: 0, fb: 0 },
                Op::Master { file: 3, on: true },
                Op::Master { file: 0, on: true },
                Op::GetFb { file: 0, fb: 0 },
                Op::Admin { on: true },
                Op::Master { file: 4, on: true },
                Op::Master { file: 4, on: false },
                Op::Lease { file: 4, to: 1 },
            ]),
        ),
        (
            "names",
            steps(&[
                dumb(2),
                Op::Flink { file: 2, handle: 1 },
                Op::GemOpen { file: 3, name: 1 },
                Op::GemClose { file: 2, handle: 1 },
                Op::GemOpen { file: 2, name: 1 },
                Op::GemClose { file: 2, handle: 1 },
                Op::GemClose { file: 3, handle: 1 },
                Op::GemOpen { file: 2, name: 1 },
                Op::Flink { file: 2, handle: 4711 },
            ]),
        ),
        (
            "a second file that exports what it opened by name",
            steps(&[
                dumb(2),
                Op::Flink { file: 2, handle: 1 },
                Op::GemOpen { file: 3, name: 1 },
                export(2, 1, 0),
                export(3, 1, 1),
                Op::Import { file: 3, given: Given::Fd(1) },
            ]),
        ),
    ]
}
