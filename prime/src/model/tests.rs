//! The model's own tests, named after the rows they show, and what they have in common.

use super::*;

mod attach;
mod counts;
mod descriptors;
mod edges;
mod export;
mod import;
mod kms;
mod locks;
mod ops;
mod release;
mod switches;
mod tables;
mod walk;

const BOTH: [Profile; 2] = [Profile::MODERN, Profile::SEED];

/// A machine with vgem and vkms, and one primary file on each.
struct Bench {
    machine: Machine,
    vgem: Device,
    vkms: Device,
    a: File,
    b: File,
}

impl Bench {
    fn new(profile: Profile) -> Self {
        Self::with(profile, Driver::vgem(), Driver::vkms())
    }

    /// Two other drivers in the places of vgem (file `a`) and vkms (file `b`).
    fn with(profile: Profile, first: Driver, second: Driver) -> Self {
        let machine = Machine::new(profile);
        let (vgem, vkms) = (machine.add_device(first), machine.add_device(second));
        let (a, b) = (vgem.open(Node::Primary).unwrap(), vkms.open(Node::Primary).unwrap());
        Self { machine, vgem, vkms, a, b }
    }

    /// A buffer of file `a` and a descriptor of it.
    fn exported(&self) -> (u32, DmabufFd) {
        let handle = dumb(&self.a);
        (handle, self.a.handle_to_fd(handle, 0).unwrap())
    }

    /// A buffer of file `b` with a descriptor, and its handle and another, both of them in the cache with one dma-buf.
    fn twins(&self) -> (u32, u32, DmabufFd) {
        let handle = dumb(&self.b);
        let fb = self.b.addfb2(&kms::xrgb(64, 64, handle)).unwrap();
        let fd = self.b.handle_to_fd(handle, 0).unwrap();
        let twin = self.b.getfb2(fb).unwrap().handles[0];
        drop(self.b.handle_to_fd(twin, 0).unwrap());
        (handle, twin, fd)
    }

    /// Looks at the object of a dma-buf.
    fn object<T>(&self, of: &DmabufFd, look: impl FnOnce(&mut object::Object) -> T) -> T {
        let mut state = self.machine.state();
        let object = state.dmabufs.get(of.key()).and_then(|dmabuf| dmabuf.object).unwrap();
        look(state.objects.get_mut(object).unwrap())
    }

    /// Closes all, after which nothing may be left; gives what [`noted`] gives.
    fn close(self) -> Vec<Event> {
        let Self { machine, a, b, .. } = self;
        drop((a, b));
        assert_eq!(machine.census(), Census::default());
        assert!(machine.state().escaped.is_empty());
        noted(&machine)
    }
}

/// A buffer of 16 KiB.
fn dumb(file: &File) -> u32 {
    file.create_dumb(64, 64, 32).unwrap().handle
}

fn import(file: &File, fd: &DmabufFd) -> Result<u32, Errno> {
    file.fd_to_handle(FdArg::Dmabuf(fd))
}

/// The events, without the one that goes with almost every close in the seed and harms nobody (S07).
fn noted(machine: &Machine) -> Vec<Event> {
    let mut events = machine.take_events();
    events.retain(|event| (event.row, event.kind) != ("S07", EventKind::Warn));
    events
}

/// Row and kind of each event.
fn rows(events: &[Event]) -> Vec<(&'static str, EventKind)> {
    events.iter().map(|event| (event.row, event.kind)).collect()
}
