//! One script on two sides: after every step both must have answered alike and look alike.
//!
//! Owns the playing of a [`Step`] on a side, what is compared, and the table of what has been met ([`Coverage`]). It knows
//! nothing of which side is right: that is the caller's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use drm_prime::errno_name;
use rustix::io::Errno;

use super::script::{FDS, FEW, FILES, Given, Op, Step};
use super::{
    Answer, Contract, Device, Dumb, Fb2, FbInfo, Fd, FdArg, File, Map, Node, PAGE, SyncArg, SyncFile, fine,
};

/// What a step did on one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its slot was empty, so nothing was called.
    Skipped,
    /// It succeeded and had nothing to say.
    Done,
    /// A number: a handle, an id, an offset, events.
    Number(u64),
    /// Yes or no.
    Truth(bool),
    /// A new buffer.
    Dumb(Dumb),
    /// A framebuffer.
    Fb(Fb2),
    /// A framebuffer, the old way.
    Info(FbInfo),
    /// It failed.
    Failed(Errno),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Failed(errno) => f.write_str(&errno_name(*errno)),
            Outcome::Number(number) => write!(f, "{number}"),
            Outcome::Done => f.write_str("ok"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Where the two sides parted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// After how many steps; the script's length when it is about the end.
    pub step: usize,
    /// What differs.
    pub what: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: {}", self.step + 1, self.what)
    }
}

/// How often each call has answered what, where both sides agreed.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    cells: BTreeMap<(&'static str, String), u64>,
}

/// What the contract names: each of these must have been met.
const NAMED: &[(&str, &[&str])] = &[
    ("open", &["ok", "ENOENT", "EMFILE"]),
    ("GET_CAP", &["ok", "EINVAL", "EOPNOTSUPP"]),
    ("SET_MASTER", &["ok", "EBUSY", "EACCES"]),
    ("DROP_MASTER", &["ok", "EINVAL", "EACCES"]),
    ("CREATE_LEASE", &["ok", "EACCES", "EINVAL", "EOPNOTSUPP"]),
    ("CREATE_DUMB", &["ok", "EINVAL", "EACCES"]),
    ("MAP_DUMB", &["ok", "ENOENT", "EINVAL", "EACCES"]),
    ("mmap of MAP_DUMB", &["ok"]),
    ("DESTROY_DUMB", &["ok", "EINVAL", "EACCES"]),
    ("GEM_CLOSE", &["ok", "EINVAL"]),
    ("GEM_CHANGE_HANDLE", &["EINVAL"]),
    ("GEM_FLINK", &["ok", "ENOENT", "EACCES"]),
    ("GEM_OPEN", &["ok", "ENOENT", "EACCES"]),
    ("HANDLE_TO_FD", &["ok", "EINVAL", "EMFILE", "ENOENT"]),
    ("FD_TO_HANDLE", &["ok", "EBADF", "EINVAL"]),
    ("ADDFB2", &["ok", "EINVAL", "ENOENT", "ERANGE", "EOPNOTSUPP", "EACCES"]),
    ("RMFB", &["ok", "ENOENT", "EOPNOTSUPP", "EACCES"]),
    ("CLOSEFB", &["ok", "ENOENT", "EINVAL", "EOPNOTSUPP", "EACCES"]),
    ("GETFB", &["ok", "ENOENT", "EINVAL", "EOPNOTSUPP", "EACCES"]),
    ("GETFB2", &["ok", "ENOENT", "EINVAL", "EACCES"]),
    ("dup", &["ok", "EMFILE"]),
    ("kcmp", &["ok"]),
    ("mmap", &["ok", "EINVAL", "EACCES"]),
    ("lseek", &["ok", "EINVAL"]),
    ("read", &["EINVAL"]),
    ("write", &["EINVAL"]),
    ("ftruncate", &["EINVAL"]),
    ("unknown ioctl", &["ENOTTY"]),
    ("open /proc/self/fd", &["ENXIO"]),
    ("F_SETFL", &["ok"]),
    ("SYNC", &["ok", "EINVAL"]),
    ("poll", &["ok"]),
    ("FENCE_ATTACH", &["ok", "EINVAL", "ENOENT", "EBUSY"]),
    ("FENCE_SIGNAL", &["ok", "EINVAL", "ENOENT"]),
    ("EXPORT_SYNC_FILE", &["ok", "EINVAL", "EMFILE"]),
    ("IMPORT_SYNC_FILE", &["ok", "EINVAL"]),
    ("UDMABUF_CREATE", &["ok", "EINVAL", "EBADFD", "EMFILE"]),
    ("close", &["ok"]),
    ("munmap", &["ok"]),
    ("store", &["ok"]),
];

impl Coverage {
    fn note(&mut self, op: &Op, outcome: Outcome) {
        let answer = match outcome {
            Outcome::Skipped => return,
            Outcome::Failed(errno) => errno_name(errno),
            _ => "ok".to_owned(),
        };
        *self.cells.entry((op.call(), answer)).or_default() += 1;
    }

    /// The cells that the contract names and nothing has met.
    #[must_use]
    pub fn empty_cells(&self) -> Vec<String> {
        let cells =
            NAMED.iter().flat_map(|(call, answers)| answers.iter().map(move |answer| (*call, *answer)));
        cells
            .filter(|(call, answer)| !self.cells.contains_key(&(*call, (*answer).to_owned())))
            .map(|(call, answer)| format!("{call} {answer}"))
            .collect()
    }
}

/// One line per call.
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((call, answer), count) in &self.cells {
            lines.entry(call).or_default().push(format!("{answer} {count}"));
        }
        for (call, answers) in lines {
            writeln!(f, "{call:<20} {}", answers.join(", "))?;
        }
        Ok(())
    }
}

/// A script's slots on one side.
#[derive(Debug, Default)]
struct Player {
    files: [Option<File>; FILES.len()],
    fds: [Option<Fd>; FDS],
    maps: [Option<Map>; FEW],
    writable: [bool; FEW],
    syncs: [Option<SyncFile>; FEW],
    /// Ids, kept after their end so that they are asked for again.
    fbs: [u32; FEW],
    /// The file whose framebuffer is still there.
    owners: [Option<usize>; FEW],
    /// Open handles of each file.
    handles: [BTreeSet<u32>; FILES.len()],
    /// What each file's cache holds: file, handle and the dma-buf's inode.
    members: Vec<(usize, u32, u64)>,
    /// Whether the process has given `CAP_SYS_ADMIN` up.
    unprivileged: bool,
    /// Names given, and where.
    names: Vec<(usize, u32)>,
    /// Fences that are not signalled: file and number. While there is one, `SYNC` might wait for it.
    pending: Vec<(usize, u32)>,
}

/// An id that no framebuffer has.
const NO_FRAMEBUFFER: u32 = 0xdead;

/// What `hint` chooses among the slots that are not empty; the hint itself if all are.
fn occupied<T>(slots: &[Option<T>], hint: usize) -> usize {
    let full: Vec<usize> = (0..slots.len()).filter(|slot| slots[*slot].is_some()).collect();
    if full.is_empty() { hint } else { full[hint % full.len()] }
}

impl Player {
    /// The call that an aimed step makes here.
    fn aim(&self, mut op: Op) -> Op {
        match &mut op {
            Op::Export { file, handle, .. }
            | Op::GemClose { file, handle }
            | Op::AddFb { file, handle, .. }
            | Op::Flink { file, handle }
            | Op::MapDumb { file, handle }
            | Op::DestroyDumb { file, handle }
            | Op::ChangeHandle { file, handle }
            | Op::MmapDumb { file, handle, .. }
            | Op::FenceAttach { file, handle, .. } => {
                let of = &self.handles[*file];
                if let Some(open) = of.iter().nth(handle.saturating_sub(1) as usize % of.len().max(1)) {
                    *handle = *open;
                }
            }
            Op::Import { given: Given::Fd(fd), .. }
            | Op::Close { fd }
            | Op::Dup { fd, .. }
            | Op::Mmap { fd, .. }
            | Op::Seek { fd, .. }
            | Op::Read { fd }
            | Op::Write { fd }
            | Op::Truncate { fd }
            | Op::Unknown { fd }
            | Op::Reopen { fd }
            | Op::Nonblock { fd, .. }
            | Op::Sync { fd, .. }
            | Op::Poll { fd, .. }
            | Op::ExportSync { fd, .. } => *fd = occupied(&self.fds, *fd),
            Op::SameFile { a, b } => {
                *a = occupied(&self.fds, *a);
                *b = occupied(&self.fds, *b);
            }
            Op::ImportSync { fd, sync, .. } => {
                *fd = occupied(&self.fds, *fd);
                *sync = occupied(&self.syncs, *sync);
            }
            Op::Poke { map, .. } | Op::Unmap { map } => *map = occupied(&self.maps, *map),
            Op::GetFb2 { fb, .. } | Op::GetFb { fb, .. } => *fb = occupied(&self.owners, *fb),
            Op::RmFb { file, fb } | Op::CloseFb { file, fb, .. } => {
                *fb = occupied(&self.owners, *fb);
                *file = self.owners[*fb].unwrap_or(*file);
            }
            Op::GemOpen { file, name } => {
                let device = FILES[*file].0;
                let of: Vec<u32> =
                    self.names.iter().filter(|it| FILES[it.0].0 == device).map(|it| it.1).collect();
                if let Some(given) = of.get(*name as usize % of.len().max(1)) {
                    *name = *given;
                }
            }
            Op::FenceSignal { file, fence, .. } => {
                if let Some(pending) = self.pending.get(*fence as usize % self.pending.len().max(1)) {
                    (*file, *fence) = *pending;
                }
            }
            _ => {}
        }
        op
    }

    /// Remembers what a successful call has opened and closed.
    fn note(&mut self, op: &Op, outcome: &Outcome) {
        match (*op, *outcome) {
            (Op::CreateDumb { file, .. }, Outcome::Dumb(dumb)) => {
                self.handles[file].insert(dumb.handle);
            }
            (Op::Import { file, .. } | Op::GemOpen { file, .. }, Outcome::Number(handle)) => {
                self.handles[file].insert(handle as u32);
            }
            (Op::GetFb { file, .. }, Outcome::Info(info)) => {
                self.handles[file].extend(Some(info.handle).filter(|handle| *handle != 0));
            }
            (Op::GetFb2 { file, .. }, Outcome::Fb(fb)) => {
                self.handles[file].extend(fb.handles.iter().filter(|handle| **handle != 0));
            }
            (Op::GemClose { file, handle } | Op::DestroyDumb { file, handle }, Outcome::Done) => {
                self.handles[file].remove(&handle);
                self.members.retain(|member| (member.0, member.1) != (file, handle));
            }
            (Op::AddFb { file, to, .. }, Outcome::Number(_)) => self.owners[to] = Some(file),
            (Op::RmFb { fb, .. } | Op::CloseFb { fb, .. }, Outcome::Done) => {
                let id = self.fbs[fb];
                for slot in (0..FEW).filter(|slot| self.fbs[*slot] == id) {
                    self.owners[slot] = None;
                }
            }
            (Op::Flink { file, .. }, Outcome::Number(name)) => self.names.push((file, name as u32)),
            _ => {}
        }
    }

    /// Notes a cache entry. An inode that cannot be told is found by the look that follows each step.
    fn remember(&mut self, side: &mut dyn Contract, file: usize, handle: u32, fd: Fd) {
        let entry = (file, handle, side.inode(fd).unwrap_or(0));
        if !self.members.contains(&entry) {
            self.members.push(entry);
        }
    }

    /// Whether a file's cache has the dma-buf in a slot under a handle.
    fn knows(&self, side: &mut dyn Contract, file: usize, fd: usize, handle: u64) -> bool {
        let Some(Ok(inode)) = self.fds[fd].map(|fd| side.inode(fd)) else { return false };
        self.members.iter().any(|member| (member.0, u64::from(member.1), member.2) == (file, handle, inode))
    }

    /// Forgets what has gone with a file.
    fn forget(&mut self, file: usize) {
        self.pending.retain(|(owner, _)| *owner != file);
        self.handles[file].clear();
        self.members.retain(|member| member.0 != file);
        self.owners.iter_mut().filter(|owner| **owner == Some(file)).for_each(|owner| *owner = None);
    }

    fn play(&mut self, side: &mut dyn Contract, step: &Step) -> Outcome {
        if step.starved {
            side.limit_fds(Some(0));
        }
        let answer = self.call(side, &step.op);
        if step.starved {
            side.limit_fds(None);
        }
        match answer {
            None => Outcome::Skipped,
            Some(Ok(outcome)) => {
                self.note(&step.op, &outcome);
                outcome
            }
            Some(Err(errno)) => Outcome::Failed(errno),
        }
    }

    fn put_fd(&mut self, side: &mut dyn Contract, to: usize, fd: Fd) -> Outcome {
        if let Some(old) = self.fds[to].replace(fd) {
            side.close_fd(old);
        }
        Outcome::Done
    }

    fn put_map(&mut self, side: &mut dyn Contract, to: usize, map: Map, writable: bool) -> Outcome {
        if let Some(old) = self.maps[to].replace(map) {
            side.unmap(old);
        }
        self.writable[to] = writable;
        Outcome::Done
    }

    /// Makes the call; `None` if a slot that it needs is empty.
    fn call(&mut self, side: &mut dyn Contract, op: &Op) -> Option<Answer<Outcome>> {
        let done = |(): ()| Outcome::Done;
        let number = |number: u32| Outcome::Number(number.into());
        Some(match *op {
            Op::CreateDumb { file, width, height, bpp } => {
                side.create_dumb(self.files[file]?, width, height, bpp).map(Outcome::Dumb)
            }
            Op::Export { file, handle, flags, to } => {
                side.handle_to_fd(self.files[file]?, handle, flags).map(|fd| {
                    self.remember(side, file, handle, fd);
                    self.put_fd(side, to, fd)
                })
            }
            Op::Import { file, given } => {
                let opened = self.files[file]?;
                let given = match given {
                    Given::Fd(fd) => self.fds[fd].map_or(FdArg::Bad, FdArg::Dmabuf),
                    Given::OPath => FdArg::OPath,
                    Given::DevNull => FdArg::DevNull,
                    Given::Memfd => FdArg::Memfd,
                    Given::Drm => FdArg::Drm(opened),
                };
                side.fd_to_handle(opened, given, 0).map(|handle| {
                    if let FdArg::Dmabuf(fd) = given {
                        self.remember(side, file, handle, fd);
                    }
                    number(handle)
                })
            }
            Op::GemClose { file, handle } => side.gem_close(self.files[file]?, handle).map(done),
            Op::AddFb { file, handle, shape, to } => {
                side.addfb2(self.files[file]?, &shape.request(handle)).map(|id| {
                    self.fbs[to] = id;
                    number(id)
                })
            }
            Op::GetFb2 { file, fb } => side.getfb2(self.files[file]?, self.fb(fb)).map(Outcome::Fb),
            Op::GetFb { file, fb } => side.getfb(self.files[file]?, self.fb(fb)).map(Outcome::Info),
            Op::RmFb { file, fb } => side.rmfb(self.files[file]?, self.fb(fb)).map(done),
            Op::CloseFb { file, fb, pad } => side.closefb(self.files[file]?, self.fb(fb), pad).map(done),
            Op::Flink { file, handle } => side.flink(self.files[file]?, handle).map(number),
            Op::GemOpen { file, name } => side.gem_open(self.files[file]?, name).map(number),
            Op::MapDumb { file, handle } => side.map_dumb(self.files[file]?, handle).map(done),
            Op::DestroyDumb { file, handle } => side.destroy_dumb(self.files[file]?, handle).map(done),
            Op::ChangeHandle { file, handle } => side.change_handle(self.files[file]?, handle, 9).map(done),
            Op::GetCap { file, cap } => side.get_cap(self.files[file]?, cap).map(Outcome::Number),
            Op::Close { fd } => {
                side.close_fd(self.fds[fd].take()?);
                Ok(Outcome::Done)
            }
            Op::Dup { fd, to } => side.dup_fd(self.fds[fd]?).map(|dup| self.put_fd(side, to, dup)),
            Op::SameFile { a, b } => side.same_file(self.fds[a]?, self.fds[b]?).map(Outcome::Truth),
            Op::Mmap { fd, page, pages, writable, to } => side
                .mmap(self.fds[fd]?, page * PAGE, pages * PAGE, writable)
                .map(|map| self.put_map(side, to, map, writable)),
            Op::MmapDumb { file, handle, to } => {
                side.mmap_dumb(self.files[file]?, handle, PAGE).map(|map| self.put_map(side, to, map, true))
            }
            Op::Poke { map, value } => {
                let slot = self.maps[map]?;
                if !self.writable[map] {
                    return None;
                }
                side.poke(slot, 0, value);
                Ok(Outcome::Done)
            }
            Op::Unmap { map } => {
                side.unmap(self.maps[map].take()?);
                Ok(Outcome::Done)
            }
            Op::Seek { fd, offset, whence } => side.seek(self.fds[fd]?, offset, whence).map(Outcome::Number),
            Op::Read { fd } => side.read(self.fds[fd]?).map(done),
            Op::Write { fd } => side.write(self.fds[fd]?).map(done),
            Op::Truncate { fd } => side.ftruncate(self.fds[fd]?, PAGE).map(done),
            Op::Unknown { fd } => side.unknown_ioctl(self.fds[fd]?).map(done),
            Op::Reopen { fd } => side.reopen(self.fds[fd]?).map(done),
            Op::Nonblock { fd, on } => side.set_nonblocking(self.fds[fd]?, on).map(done),
            Op::Sync { fd, flags } => {
                let fd = self.fds[fd]?;
                if !self.pending.is_empty() {
                    return None;
                }
                side.sync(fd, flags).map(done)
            }
            _ => return self.call_rest(side, op),
        })
    }

    fn call_rest(&mut self, side: &mut dyn Contract, op: &Op) -> Option<Answer<Outcome>> {
        let done = |(): ()| Outcome::Done;
        Some(match *op {
            Op::FenceAttach { file, handle, flags, pad } => {
                side.fence_attach(self.files[file]?, handle, flags, pad).map(|fence| {
                    self.pending.push((file, fence));
                    Outcome::Number(fence.into())
                })
            }
            Op::FenceSignal { file, fence, flags } => {
                side.fence_signal(self.files[file]?, fence, flags).map(|()| {
                    self.pending.retain(|pending| *pending != (file, fence));
                    Outcome::Done
                })
            }
            Op::Poll { fd, events } => {
                side.poll(self.fds[fd]?, events).map(|ready| Outcome::Number(ready.into()))
            }
            Op::ExportSync { fd, flags, to } => side.export_sync_file(self.fds[fd]?, flags).map(|sync| {
                if let Some(old) = self.syncs[to].replace(sync) {
                    side.close_sync(old);
                }
                Outcome::Done
            }),
            Op::ImportSync { fd, sync, flags } => {
                let sync = self.syncs[sync].map_or(SyncArg::DevNull, SyncArg::File);
                side.import_sync_file(self.fds[fd]?, sync, flags).map(done)
            }
            Op::Udmabuf { memory, offset, size, to } => {
                side.udmabuf(memory, offset, size).map(|fd| self.put_fd(side, to, fd))
            }
            Op::CloseFile { file } => {
                side.close_file(self.files[file].take()?);
                self.forget(file);
                Ok(Outcome::Done)
            }
            Op::OpenFile { file } => {
                // Who opens without privileges may not name buffers, which is no part of the contract.
                if self.files[file].is_some() || self.unprivileged {
                    return None;
                }
                let (device, node) = FILES[file];
                side.open(device, node).map(|opened| {
                    self.files[file] = Some(opened);
                    Outcome::Done
                })
            }
            Op::Master { file, on } => side.set_master(self.files[file]?, on).map(done),
            Op::Admin { on } => side.set_admin(on).map(|()| {
                self.unprivileged = !on;
                Outcome::Done
            }),
            Op::Lease { file, to } => side.empty_lease(self.files[file]?).map(|lease| {
                if let Some(old) = self.files[to].replace(lease) {
                    side.close_file(old);
                    self.forget(to);
                }
                Outcome::Done
            }),
            Op::OpenVkmsRender => side.open(Device::Vkms, Node::Render).map(|_| Outcome::Done),
            _ => return None,
        })
    }

    fn fb(&self, slot: usize) -> u32 {
        match self.fbs[slot] {
            0 => NO_FRAMEBUFFER,
            id => id,
        }
    }

    /// What can be seen of a side between two calls.
    fn look(&self, side: &mut dyn Contract) -> View {
        View {
            fds: self.fds.map(|fd| {
                let fd = fd?;
                let (count, size) = (side.count(fd), side.size(fd));
                Some((side.inode(fd), Seen { count, size, nonblocking: side.nonblocking(fd) }))
            }),
            bytes: self.maps.map(|map| map.map(|map| side.peek(map, 0))),
            signalled: self.syncs.map(|sync| sync.map(|sync| side.signalled(sync))),
        }
    }
}

/// A descriptor between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    count: Answer<u64>,
    size: Answer<u64>,
    nonblocking: Answer<bool>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |answer: Answer<u64>| match answer {
            Ok(number) => number.to_string(),
            Err(errno) => errno_name(errno),
        };
        write!(f, "count {} size {} O_NONBLOCK {:?}", number(self.count), number(self.size), self.nonblocking)
    }
}

/// A side between two calls.
#[derive(Debug)]
struct View {
    /// Each descriptor's inode, and what both sides must say of it in the same words.
    fds: [Option<(Answer<u64>, Seen)>; FDS],
    bytes: [Option<u8>; FEW],
    signalled: [Option<Answer<bool>>; FEW],
}

/// Which inode of one side is which of the other. Neither side uses one twice.
#[derive(Debug, Default)]
struct Inodes {
    there: HashMap<u64, u64>,
    back: HashMap<u64, u64>,
}

impl Inodes {
    fn agree(&mut self, a: u64, b: u64) -> bool {
        *self.there.entry(a).or_insert(b) == b && *self.back.entry(b).or_insert(a) == a
    }
}

/// How close a look is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// After each call at everything that can be seen of the descriptors, mappings and sync files.
    Everything,
    /// At answers alone.
    Answers,
}

/// Plays a script on both sides and compares after each step; closes everything at the end, whatever happened.
///
/// # Errors
///
/// Where they parted: in an answer, in what is seen of a descriptor, or in what is left at the end.
pub fn play(
    script: &[Step],
    one: &mut dyn Contract,
    two: &mut dyn Contract,
    look: Look,
    coverage: &mut Coverage,
) -> Result<(), Divergence> {
    let end = script.len();
    let lost = |what: anyhow::Error| Divergence { step: end, what: format!("{what:#}") };
    let before = (one.census().map_err(lost)?, two.census().map_err(lost)?);
    let outcome = compare(script, one, two, look, coverage);
    tidy(one).map_err(lost)?;
    tidy(two).map_err(lost)?;
    outcome?;
    let after = (one.census().map_err(lost)?, two.census().map_err(lost)?);
    if before == after || look == Look::Answers {
        return Ok(());
    }
    Err(Divergence { step: end, what: format!("left behind: before {before:?}, after {after:?}") })
}

fn tidy(side: &mut dyn Contract) -> anyhow::Result<()> {
    side.close_everything();
    fine("capset", side.set_admin(true))
}

fn compare(
    script: &[Step],
    one: &mut dyn Contract,
    two: &mut dyn Contract,
    look: Look,
    coverage: &mut Coverage,
) -> Result<(), Divergence> {
    let (mut a, mut b) = (Player::default(), Player::default());
    let mut inodes = Inodes::default();
    let opening: Vec<Step> = (0..FILES.len()).map(|file| Op::OpenFile { file }.into()).collect();
    for (number, step) in opening.iter().chain(script).enumerate() {
        let number = number.saturating_sub(opening.len());
        let op = if step.aimed { a.aim(step.op) } else { step.op };
        let step = &Step { op, aimed: false, ..*step };
        let parted = |what: String| Divergence { step: number, what: format!("{step:?}: {what}") };
        let (left, right) = (a.play(one, step), b.play(two, step));
        // A file that has exported two handles of one object has its dma-buf in the cache twice. Which of the two an import
        // finds depends on the shape of a tree that is ordered by addresses (drm_prime.c): either is right.
        let either = match (op, left, right) {
            (Op::Import { file, given: Given::Fd(fd) }, Outcome::Number(x), Outcome::Number(y)) => {
                a.knows(one, file, fd, y) && b.knows(two, file, fd, x)
            }
            _ => false,
        };
        if left != right && !either {
            return Err(parted(format!("{left} here, {right} there")));
        }
        coverage.note(&step.op, left);
        if look == Look::Answers {
            continue;
        }
        let (left, right) = (a.look(one), b.look(two));
        for (slot, pair) in left.fds.iter().zip(&right.fds).enumerate() {
            let (Some(x), Some(y)) = pair else { continue };
            let same = match (x.0, y.0) {
                (Ok(x), Ok(y)) => inodes.agree(x, y),
                _ => false,
            };
            if !same {
                return Err(parted(format!("fd{slot} is another dma-buf on one side")));
            }
            if x.1 != y.1 {
                return Err(parted(format!("fd{slot}: {} here, {} there", x.1, y.1)));
            }
        }
        if left.bytes != right.bytes {
            return Err(parted(format!("mapped bytes {:?} here, {:?} there", left.bytes, right.bytes)));
        }
        if left.signalled != right.signalled {
            return Err(parted(format!("sync files {:?} here, {:?} there", left.signalled, right.signalled)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::super::script::{Shape, directed};
    use super::*;
    use drm_prime::model::{Profile, SeedTrait};

    fn model() -> Model {
        Model::new(Profile::MODERN)
    }

    #[test]
    fn a_call_fills_its_cell_and_no_other() {
        let mut coverage = Coverage::default();
        let all = coverage.empty_cells().len();
        assert_eq!(all, NAMED.iter().map(|(_, answers)| answers.len()).sum::<usize>());
        coverage.note(&Op::Read { fd: 0 }, Outcome::Failed(Errno::INVAL));
        coverage.note(&Op::Read { fd: 0 }, Outcome::Failed(Errno::IO));
        coverage.note(&Op::Write { fd: 0 }, Outcome::Skipped);
        let empty = coverage.empty_cells();
        assert_eq!(empty.len(), all - 1);
        assert!(!empty.contains(&"read EINVAL".to_owned()) && empty.contains(&"write EINVAL".to_owned()));
    }

    #[test]
    fn scripts_by_hand_agree_with_themselves() {
        let mut coverage = Coverage::default();
        for (name, steps) in directed() {
            let played = play(&steps, &mut model(), &mut model(), Look::Everything, &mut coverage);
            assert_eq!(played, Ok(()), "{name}");
        }
    }

    /// A difference is found where it is, whether an answer shows it or only a count.
    #[test]
    fn the_first_difference_is_named() {
        let steps: Vec<Step> = [
            Op::CreateDumb { file: 0, width: 32, height: 32, bpp: 32 },
            Op::AddFb { file: 0, handle: 1, shape: Shape::Page, to: 0 },
            Op::Export { file: 0, handle: 1, flags: 0, to: 0 },
            Op::GemClose { file: 0, handle: 1 },
        ]
        .map(Step::from)
        .to_vec();
        let against = |seed, look| {
            let mut other = Model::new(Profile::MODERN.with(seed));
            play(&steps, &mut model(), &mut other, look, &mut Coverage::default())
        };
        // C1: a first export has two references instead of three.
        let parted = against(SeedTrait::WeakExportLink, Look::Everything).unwrap_err();
        assert_eq!(parted.step, 2);
        assert!(parted.what.contains("count 3") && parted.what.contains("count 2"), "{parted}");
        // C12: the framebuffer does not keep the object's link to its dma-buf.
        let parted = against(SeedTrait::FbHoldsObjectOnly, Look::Everything).unwrap_err();
        assert_eq!(parted.step, 3);
        assert_eq!(against(SeedTrait::FbHoldsObjectOnly, Look::Answers), Ok(()));
    }

    #[test]
    fn inodes_are_classes() {
        let mut inodes = Inodes::default();
        assert!(inodes.agree(1, 10) && inodes.agree(2, 20) && inodes.agree(1, 10));
        assert!(!inodes.agree(1, 20), "one buffer here, two there");
        assert!(!inodes.agree(3, 10), "two buffers here, one there");
    }

    #[test]
    fn an_aimed_step_meets_what_is_open() {
        let mut side = model();
        let mut player = Player::default();
        for op in [
            Op::OpenFile { file: 2 },
            Op::CreateDumb { file: 2, width: 32, height: 32, bpp: 32 },
            Op::CreateDumb { file: 2, width: 32, height: 32, bpp: 32 },
            Op::GemClose { file: 2, handle: 1 },
            Op::Export { file: 2, handle: 2, flags: 0, to: 3 },
        ] {
            player.play(&mut side, &op.into());
        }
        assert_eq!(player.aim(Op::GemClose { file: 2, handle: 1 }), Op::GemClose { file: 2, handle: 2 });
        assert_eq!(player.aim(Op::GemClose { file: 3, handle: 5 }), Op::GemClose { file: 3, handle: 5 });
        assert_eq!(player.aim(Op::Close { fd: 0 }), Op::Close { fd: 3 });
    }
}
