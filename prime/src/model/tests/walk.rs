//! Random walks through all calls, with every count compared to who holds what after each step.

use std::collections::HashMap;

use memory::Access;
use proptest::prelude::*;

use super::*;

/// One step; numbers pick among what there is.
#[derive(Debug, Clone)]
enum Op {
    Open(u8, bool),
    CloseFile(u8),
    DupFile(u8),
    Dumb(u8),
    MapDumb(u8, u8),
    Export(u8, u8, bool),
    Import(u8, u8),
    CloseHandle(u8, u8),
    Dup(u8),
    CloseFd(u8),
    Map(u8),
    Unmap(u8),
    Udmabuf,
    Attach(u8, bool),
    Detach(u8),
    MapAttachment(u8),
    AddFb(u8, u8, u8),
    GetFb2(u8, u8),
    RmFb(u8, u8),
    CloseFb(u8, u8),
    Show(u8, u8, bool),
    Vmap(u8),
    Vunmap(u8),
    Fault(u8, u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    use Op as O;
    let n = || 0..6u8;
    let op = prop_oneof![
        1 => (n(), any::<bool>()).prop_map(|(a, b)| O::Open(a, b)),
        1 => n().prop_map(O::CloseFile),
        1 => n().prop_map(O::DupFile),
        3 => n().prop_map(O::Dumb),
        1 => (n(), n()).prop_map(|(a, b)| O::MapDumb(a, b)),
        4 => (n(), n(), any::<bool>()).prop_map(|(a, b, c)| O::Export(a, b, c)),
        6 => (n(), n()).prop_map(|(a, b)| O::Import(a, b)),
        4 => (n(), n()).prop_map(|(a, b)| O::CloseHandle(a, b)),
        1 => n().prop_map(O::Dup),
        2 => n().prop_map(O::CloseFd),
        1 => n().prop_map(O::Map),
        1 => n().prop_map(O::Unmap),
        1 => Just(O::Udmabuf),
        1 => (n(), any::<bool>()).prop_map(|(a, b)| O::Attach(a, b)),
        1 => n().prop_map(O::Detach),
        1 => n().prop_map(O::MapAttachment),
        2 => (n(), n(), n()).prop_map(|(a, b, c)| O::AddFb(a, b, c)),
        1 => (n(), n()).prop_map(|(a, b)| O::GetFb2(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| O::RmFb(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| O::CloseFb(a, b)),
        1 => (n(), n(), any::<bool>()).prop_map(|(a, b, c)| O::Show(a, b, c)),
        1 => n().prop_map(O::Vmap),
        1 => n().prop_map(O::Vunmap),
        1 => (0..FAULTS.len() as u8, 1..3u8).prop_map(|(a, b)| O::Fault(a, b)),
    ];
    prop::collection::vec(op, 1..60)
}

const FAULTS: [FaultPoint; 18] = [
    FaultPoint::FdReserve,
    FaultPoint::ObjectAlloc,
    FaultPoint::HandleAlloc,
    FaultPoint::HandleAllow,
    FaultPoint::DriverExport,
    FaultPoint::DmabufAlloc,
    FaultPoint::MemberAlloc,
    FaultPoint::AttachmentAlloc,
    FaultPoint::PrivAlloc,
    FaultPoint::Pin,
    FaultPoint::GetSgTable,
    FaultPoint::SgAlloc,
    FaultPoint::DmaMap,
    FaultPoint::DriverImport,
    FaultPoint::Vmap,
    FaultPoint::Pages,
    FaultPoint::FramebufferAlloc,
    FaultPoint::FramebufferId,
];

struct Walk {
    machine: Machine,
    devices: Vec<Device>,
    files: Vec<File>,
    fds: Vec<DmabufFd>,
    maps: Vec<DmabufMap>,
    dumb_maps: Vec<DumbMap>,
    importers: Vec<Importer>,
}

fn pick<T>(list: &[T], n: u8) -> Option<&T> {
    list.get(usize::from(n) % list.len().max(1))
}

fn take<T>(list: &mut Vec<T>, n: u8) -> Option<T> {
    (!list.is_empty()).then(|| list.remove(usize::from(n) % list.len()))
}

impl Walk {
    fn new(profile: Profile) -> Self {
        let machine = Machine::new(profile);
        let mut strange = Driver::vkms();
        strange.import = Import::SgTable;
        strange.ops = &DRIVER_OPS;
        let devices =
            [Driver::vgem(), Driver::vkms(), strange].map(|driver| machine.add_device(driver)).into();
        Self {
            machine,
            devices,
            files: vec![],
            fds: vec![],
            maps: vec![],
            dumb_maps: vec![],
            importers: vec![],
        }
    }

    /// Answers are the model's business; here it is what they leave.
    fn step(&mut self, op: &Op) -> Option<()> {
        match *op {
            Op::Open(n, render) => {
                let node = if render { Node::Render } else { Node::Primary };
                self.files.push(pick(&self.devices, n)?.open(node).ok()?);
            }
            Op::CloseFile(n) => drop(take(&mut self.files, n)?),
            Op::DupFile(n) => {
                let twin = pick(&self.files, n)?.try_clone().ok()?;
                self.files.push(twin);
            }
            Op::Dumb(n) => drop(pick(&self.files, n)?.create_dumb(64, 64, 32)),
            Op::MapDumb(n, handle) => {
                let map = pick(&self.files, n)?.map_dumb(u32::from(handle), 4096).ok()?;
                self.dumb_maps.push(map);
            }
            Op::Export(n, handle, rdwr) => {
                let flags = if rdwr { DRM_RDWR } else { 0 };
                let fd = pick(&self.files, n)?.handle_to_fd(u32::from(handle), flags).ok()?;
                self.fds.push(fd);
            }
            Op::Import(n, fd) => drop(import(pick(&self.files, n)?, pick(&self.fds, fd)?)),
            Op::CloseHandle(n, handle) => pick(&self.files, n)?.gem_close(u32::from(handle)).ok()?,
            Op::Dup(n) => {
                let twin = pick(&self.fds, n)?.try_clone().ok()?;
                self.fds.push(twin);
            }
            Op::CloseFd(n) => drop(take(&mut self.fds, n)?),
            Op::Map(n) => {
                let map = pick(&self.fds, n)?.map(0, 4096, Access::ReadOnly).ok()?;
                self.maps.push(map);
            }
            Op::Unmap(n) => drop(take(&mut self.maps, n)?),
            Op::Udmabuf => self.fds.push(self.machine.udmabuf(16384).ok()?),
            Op::Attach(n, second) => {
                let device = &self.devices[usize::from(second)];
                let importer = pick(&self.fds, n)?.attach(device).ok()?;
                self.importers.push(importer);
            }
            Op::Detach(n) => drop(take(&mut self.importers, n)?),
            Op::MapAttachment(n) => {
                let importer = pick(&self.importers, n)?;
                let table = importer.map(Direction::Bidirectional).ok()??;
                importer.unmap(table, Direction::Bidirectional);
            }
            Op::AddFb(n, one, two) => {
                let mut request = kms::xrgb(32, 32, u32::from(one));
                if two % 2 == 0 {
                    request.pixel_format = u32::from_le_bytes(*b"NV12");
                    (request.handles[1], request.pitches) = (u32::from(two), [32, 32, 0, 0]);
                }
                pick(&self.files, n)?.addfb2(&request).ok()?;
            }
            Op::GetFb2(n, fb) => drop(pick(&self.files, n)?.getfb2(42 + u32::from(fb))),
            Op::RmFb(n, fb) => pick(&self.files, n)?.rmfb(42 + u32::from(fb)).ok()?,
            Op::CloseFb(n, fb) => pick(&self.files, n)?.closefb(42 + u32::from(fb), 0).ok()?,
            Op::Show(n, fb, on) => {
                let id = on.then(|| 42 + u32::from(fb));
                pick(&self.files, n)?.set_plane(usize::from(fb % 2), id).ok()?;
            }
            Op::Vmap(n) => pick(&self.fds, n)?.vmap().ok()?,
            Op::Vunmap(n) => pick(&self.fds, n)?.vunmap(),
            Op::Fault(point, nth) => {
                self.machine.fail(FAULTS[usize::from(point)], u64::from(nth), Errno::NOMEM);
            }
        }
        Some(())
    }

    /// Who holds each object and dma-buf, against what their counts say.
    fn check(&self) {
        let state = self.machine.state();
        let strong = !self.machine.profile().has(SeedTrait::WeakExportLink);
        let (mut objects, mut dmabufs) = (HashMap::new(), HashMap::new());
        let mut handle_counts = HashMap::new();
        for (_, dmabuf) in state.dmabufs.iter() {
            dmabuf.object.into_iter().for_each(|key| *objects.entry(key).or_insert(0) += 1);
        }
        for (_, file) in state.files.iter() {
            for (_, slot) in file.handles.iter() {
                slot.iter().for_each(|key| *handle_counts.entry(*key).or_insert(0) += 1);
            }
            for key in file.members.dmabufs() {
                *dmabufs.entry(key).or_insert(0) += 1;
            }
        }
        for (_, framebuffer) in state.framebuffers.iter() {
            for (key, held) in framebuffer.holds() {
                *objects.entry(key).or_insert(0) += 1;
                *handle_counts.entry(key).or_insert(0) += u32::from(held);
            }
        }
        for (key, object) in state.objects.iter() {
            assert_eq!(
                object.handle_count,
                handle_counts.get(&key).copied().unwrap_or(0),
                "handles of {key:?}"
            );
            let handles = if strong { object.handle_count.min(1) } else { object.handle_count };
            *objects.entry(key).or_insert(0) += handles;
            if let Some(attach) = object.import_attach {
                *dmabufs.entry(state.attachments.get(attach).unwrap().dmabuf).or_insert(0) += 1;
            }
            if strong {
                object.dma_buf.iter().for_each(|key| *dmabufs.entry(*key).or_insert(0) += 1);
            }
        }
        // Each mapping holds its object and is among the dma-buf's tokens.
        for map in &self.maps {
            map.object().into_iter().for_each(|key| *objects.entry(key).or_insert(0) += 1);
        }
        for map in &self.dumb_maps {
            *objects.entry(map.object()).or_insert(0) += 1;
        }
        for importer in &self.importers {
            *dmabufs.entry(importer.dmabuf()).or_insert(0) += 1;
        }
        for (key, object) in state.objects.iter() {
            assert_eq!(object.kref, objects.get(&key).copied().unwrap_or(0), "object {key:?}");
        }
        for (key, dmabuf) in state.dmabufs.iter() {
            let held = dmabufs.get(&key).copied().unwrap_or(0);
            assert_eq!(dmabuf.f_count, held + dmabuf.tokens, "dma-buf {key:?}");
            let attached = state.attachments.iter().filter(|(_, attach)| attach.dmabuf == key).count();
            assert_eq!(dmabuf.attachments.len(), attached);
        }
        let tokens: u32 = state.dmabufs.iter().map(|(_, dmabuf)| dmabuf.tokens).sum();
        assert_eq!(tokens as usize, self.fds.len() + self.maps.len());
        assert_eq!(state.descriptors, self.fds.len() + self.files.len());
        let pins: u32 = state.objects.iter().map(|(_, object)| object.pin_count).sum();
        let pinned = state.attachments.iter().filter(|(_, attach)| {
            state.dmabufs.get(attach.dmabuf).is_some_and(|dmabuf| dmabuf.object.is_some())
        });
        assert_eq!(pins as usize, pinned.count());
    }

    fn end(self) -> (Census, Vec<Event>) {
        let Self { machine, files, fds, maps, dumb_maps, importers, devices } = self;
        machine.clear_faults();
        drop((files, fds, maps, dumb_maps, importers, devices));
        (machine.census(), machine.events())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_reference_of_7_2_has_a_holder(ops in ops()) {
        let mut walk = Walk::new(Profile::MODERN);
        for op in &ops {
            walk.step(op);
            walk.check();
        }
        let vmapped = ops.iter().any(|op| matches!(op, Op::Vmap(_) | Op::Vunmap(_)));
        let (census, events) = walk.end();
        prop_assert_eq!(census, Census::default());
        let other: Vec<_> = events.iter().filter(|event| !(vmapped && event.row == "S11")).collect();
        prop_assert!(other.is_empty(), "{:?}", other);
    }

    #[test]
    fn the_seed_goes_wrong_only_where_it_says_so(ops in ops()) {
        let mut walk = Walk::new(Profile::SEED);
        for op in &ops {
            walk.step(op);
            if walk.machine.events().iter().all(|event| event.kind == EventKind::Warn && event.row != "S22") {
                walk.check();
            }
        }
        let (census, events) = walk.end();
        let harmless = |event: &Event| event.kind == EventKind::Warn && event.row != "S22";
        if events.iter().all(harmless) {
            prop_assert_eq!(census, Census::default());
        }
    }
}
