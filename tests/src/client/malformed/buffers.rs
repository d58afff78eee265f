//! linux-dmabuf, wl_shm and the wire itself.

use std::os::fd::AsFd as _;

use anyhow::Result;

use super::{Arg, Buffer, Case, DISPLAY, Plane, REGISTRY, SIZE, Stage, message, no_memory};

type Send = fn(&mut Stage) -> Result<()>;

const NV12: [u8; 4] = *b"NV12";
/// Some tiling that nobody here advertises.
const TILED: u64 = 1 << 56 | 1;
const IMPLICIT: u64 = 0x00ff_ffff_ffff_ffff;

fn create(stage: &mut Stage, planes: &[Plane], buffer: Buffer) -> Result<()> {
    let params = stage.params()?;
    planes.iter().try_for_each(|plane| stage.add(params, *plane))?;
    stage.create(params, buffer)
}

fn immed(stage: &mut Stage, planes: &[Plane], buffer: Buffer) -> Result<()> {
    let params = stage.params()?;
    planes.iter().try_for_each(|plane| stage.add(params, *plane))?;
    stage.create_immed(params, buffer).map(|_| ())
}

fn one(stage: &mut Stage, plane: Plane, buffer: Buffer) -> Result<()> {
    create(stage, &[plane], buffer)
}

fn sized(stage: &mut Stage, width: i32, height: i32) -> Result<()> {
    one(stage, Plane::default(), Buffer { width, height, ..Buffer::default() })
}

fn nv12(stage: &mut Stage, planes: &[(u32, u32, u32)]) -> Result<()> {
    let planes: Vec<Plane> =
        planes.iter().map(|&(index, offset, stride)| Plane { index, offset, stride, modifier: 0 }).collect();
    create(stage, &planes, Buffer { format: NV12, ..Buffer::default() })
}

fn no_buffer(stage: &mut Stage, kind: &str) -> Result<()> {
    let params = stage.params()?;
    let file = no_memory(kind)?;
    stage.add_file(params, file.as_fd(), Plane::default())?;
    stage.create(params, Buffer::default())
}

fn sampling(stage: &mut Stage, device: &[u8]) -> Result<()> {
    let params = stage.params()?;
    stage.request(params, 4, &[Arg::A(device)])?;
    stage.add(params, Plane::default())?;
    stage.create(params, Buffer::default())
}

fn immed_with_id(stage: &mut Stage, id: u32) -> Result<()> {
    let params = stage.params()?;
    stage.add(params, Plane::default())?;
    stage.request(params, 3, &Buffer::default().arguments(Some(id)))
}

fn header(stage: &mut Stage, object: u32, opcode: u32, len: u32) -> Result<()> {
    let words = [object, len << 16 | opcode];
    stage.raw.send(&words.map(u32::to_ne_bytes).concat(), &[])
}

fn bind(stage: &mut Stage, interface: &str, as_interface: &str, version: u32) -> Result<()> {
    let name = stage.raw.globals.get(interface).map_or(9999, |global| global.0);
    let id = stage.id("?");
    stage.request(REGISTRY, 0, &[Arg::U(name), Arg::S(as_interface), Arg::U(version), Arg::U(id)])
}

/// wl_shm_pool.create_buffer after wl_shm.create_pool of the memory.
fn pooled(stage: &mut Stage, [offset, width, height, stride]: [i32; 4], format: u32) -> Result<()> {
    let pool = pool(stage, SIZE as i32)?;
    let buffer = stage.id("wl_buffer");
    let place = [offset, width, height, stride].map(Arg::I);
    let arguments: Vec<_> = std::iter::once(Arg::U(buffer)).chain(place).chain([Arg::U(format)]).collect();
    stage.request(pool, 0, &arguments)
}

fn pool(stage: &mut Stage, size: i32) -> Result<u32> {
    let file = no_memory("memfd")?;
    let pool = stage.id("wl_shm_pool");
    stage.raw.send(&message(stage.shm, 0, &[Arg::U(pool), Arg::I(size)]), &[file.as_fd()])?;
    Ok(pool)
}

fn resized(stage: &mut Stage, size: i32) -> Result<()> {
    let pool = pool(stage, SIZE as i32)?;
    stage.request(pool, 2, &[Arg::I(size)])
}

pub(super) fn list(cases: &mut Vec<Case>) {
    for group in [SIZES, PLANES, LIVES, FORMATS, FILES, DEVICES, OBJECTS, WIRE, SHM] {
        cases.extend(group.iter().map(|&(name, send)| Case { name, send }));
    }
}

const SIZES: &[(&str, Send)] = &[
    ("params: width 0", |s| sized(s, 0, 64)),
    ("params: width -1", |s| sized(s, -1, 64)),
    ("params: height 0", |s| sized(s, 64, 0)),
    ("params: height -1", |s| sized(s, 64, -1)),
    ("params: size -2^31 x -2^31", |s| sized(s, i32::MIN, i32::MIN)),
    ("params: size 2^31-1 x 2^31-1", |s| sized(s, i32::MAX, i32::MAX)),
    ("params: a row longer than the stride by one pixel", |s| sized(s, 65, 64)),
    ("params: one row more than the memory", |s| sized(s, 64, 65)),
    ("params: height 2^31-1", |s| sized(s, 64, i32::MAX)),
    ("params: stride one byte less than a row", |s| {
        one(s, Plane { stride: 255, ..Plane::default() }, Buffer::default())
    }),
    ("params: stride 0", |s| one(s, Plane { stride: 0, ..Plane::default() }, Buffer::default())),
    ("params: stride 1", |s| one(s, Plane { stride: 1, ..Plane::default() }, Buffer::default())),
    ("params: stride 2^32-1", |s| one(s, Plane { stride: u32::MAX, ..Plane::default() }, Buffer::default())),
    ("params: offset 1, the last byte outside", |s| {
        one(s, Plane { offset: 1, ..Plane::default() }, Buffer::default())
    }),
    ("params: offset at the end of the memory", |s| {
        one(s, Plane { offset: SIZE as u32, ..Plane::default() }, Buffer::default())
    }),
    ("params: offset 2^32-1", |s| one(s, Plane { offset: u32::MAX, ..Plane::default() }, Buffer::default())),
    ("params: offset and stride 2^32-1, height 2^31-1", |s| {
        let plane = Plane { offset: u32::MAX, stride: u32::MAX, ..Plane::default() };
        one(s, plane, Buffer { height: i32::MAX, ..Buffer::default() })
    }),
    ("params: NV12, chroma row longer than its stride", |s| nv12(s, &[(0, 0, 64), (1, 4096, 63)])),
    ("params: NV12, chroma ends behind the memory", |s| nv12(s, &[(0, 0, 64), (1, 14_337, 64)])),
    ("params: NV12, chroma stride 0", |s| nv12(s, &[(0, 0, 64), (1, 4096, 0)])),
    ("create_immed: width 0", |s| immed(s, &[Plane::default()], Buffer { width: 0, ..Buffer::default() })),
    ("create_immed: one row more than the memory", |s| {
        immed(s, &[Plane::default()], Buffer { height: 65, ..Buffer::default() })
    }),
];

const PLANES: &[(&str, Send)] = &[
    ("params: no plane", |s| create(s, &[], Buffer::default())),
    ("params: NV12 with one plane", |s| nv12(s, &[(0, 0, 64)])),
    ("params: NV12 with three planes", |s| nv12(s, &[(0, 0, 64), (1, 4096, 64), (2, 4096, 64)])),
    ("params: NV12 with planes 0 and 2", |s| nv12(s, &[(0, 0, 64), (2, 4096, 64)])),
    ("params: NV12 with planes 1 and 2", |s| nv12(s, &[(1, 0, 64), (2, 4096, 64)])),
    ("params: XRGB8888 with two planes", |s| {
        create(s, &[Plane::default(), Plane { index: 1, ..Plane::default() }], Buffer::default())
    }),
    ("params: XRGB8888 with four planes", |s| {
        let planes = [0, 1, 2, 3].map(|index| Plane { index, ..Plane::default() });
        create(s, &planes, Buffer::default())
    }),
    ("params: XRGB8888 with plane 1 only", |s| {
        create(s, &[Plane { index: 1, ..Plane::default() }], Buffer::default())
    }),
    ("params: plane 4", |s| create(s, &[Plane { index: 4, ..Plane::default() }], Buffer::default())),
    ("params: plane 2^32-1", |s| {
        create(s, &[Plane { index: u32::MAX, ..Plane::default() }], Buffer::default())
    }),
    ("params: plane 0 twice", |s| create(s, &[Plane::default(); 2], Buffer::default())),
    ("create_immed: no plane", |s| immed(s, &[], Buffer::default())),
    ("create_immed: XRGB8888 with two planes", |s| {
        immed(s, &[Plane::default(), Plane { index: 1, ..Plane::default() }], Buffer::default())
    }),
];

const LIVES: &[(&str, Send)] = &[
    ("params: create twice", |s| {
        let params = s.params()?;
        s.add(params, Plane::default())?;
        s.create(params, Buffer::default())?;
        s.create(params, Buffer::default())
    }),
    ("params: create_immed after create", |s| {
        let params = s.params()?;
        s.add(params, Plane::default())?;
        s.create(params, Buffer::default())?;
        s.create_immed(params, Buffer::default()).map(|_| ())
    }),
    ("params: add after create", |s| {
        let params = s.params()?;
        s.add(params, Plane::default())?;
        s.create(params, Buffer::default())?;
        s.add(params, Plane { index: 1, ..Plane::default() })
    }),
    ("params: create after a create that failed", |s| {
        let params = s.params()?;
        s.add_file(params, no_memory("pipe")?.as_fd(), Plane::default())?;
        s.create(params, Buffer::default())?;
        s.create(params, Buffer::default())
    }),
    ("params: set_sampling_device after create", |s| {
        let params = s.params()?;
        s.add(params, Plane::default())?;
        s.create(params, Buffer::default())?;
        s.request(params, 4, &[Arg::A(&[0; 8])])
    }),
    ("params: destroyed, then create", |s| {
        let params = s.params()?;
        s.request(params, 0, &[])?;
        s.create(params, Buffer::default())
    }),
    ("params: destroyed twice", |s| {
        let params = s.params()?;
        s.request(params, 0, &[])?;
        s.request(params, 0, &[])
    }),
    ("params: used after the factory is destroyed (allowed)", |s| {
        let params = s.params()?;
        s.request(s.dmabuf, 0, &[])?;
        s.add(params, Plane::default())?;
        s.create(params, Buffer::default())
    }),
    ("params: add with its file coming later (allowed)", |s| {
        let params = s.params()?;
        s.raw.send(&Plane::default().add(params), &[])?;
        let file = s.memory.try_clone()?;
        let create = message(params, 2, &Buffer::default().arguments(None));
        s.raw.send(&create, &[file.as_fd()])
    }),
    ("wl_buffer: destroyed while attached (allowed)", |s| {
        let (surface, buffer) = (s.surface()?, s.good_buffer()?);
        s.attach(surface, buffer)?;
        s.request(buffer, 0, &[])?;
        s.commit(surface)
    }),
    ("wl_buffer: attached after it was destroyed", |s| {
        let (surface, buffer) = (s.surface()?, s.good_buffer()?);
        s.request(buffer, 0, &[])?;
        s.attach(surface, buffer)
    }),
    ("wl_buffer: a failed one shown", |s| {
        let (surface, params) = (s.surface()?, s.params()?);
        s.add(params, Plane::default())?;
        let buffer = s.create_immed(params, Buffer { flags: 2, ..Buffer::default() })?;
        s.attach(surface, buffer)?;
        s.commit(surface)
    }),
];

const FORMATS: &[(&str, Send)] = &[
    ("params: format 0", |s| one(s, Plane::default(), Buffer { format: [0; 4], ..Buffer::default() })),
    ("params: a format that does not exist", |s| {
        one(s, Plane::default(), Buffer { format: *b"ABCD", ..Buffer::default() })
    }),
    ("params: format 2^32-1", |s| {
        one(s, Plane::default(), Buffer { format: [0xff; 4], ..Buffer::default() })
    }),
    ("create_immed: a format that does not exist", |s| {
        immed(s, &[Plane::default()], Buffer { format: *b"ABCD", ..Buffer::default() })
    }),
    ("params: a modifier that was not advertised", |s| {
        one(s, Plane { modifier: TILED, ..Plane::default() }, Buffer::default())
    }),
    ("create_immed: a modifier that was not advertised", |s| {
        immed(s, &[Plane { modifier: TILED, ..Plane::default() }], Buffer::default())
    }),
    ("params: NV12 with two modifiers", |s| {
        let planes = [
            Plane { stride: 64, ..Plane::default() },
            Plane { index: 1, offset: 4096, stride: 64, modifier: IMPLICIT },
        ];
        create(s, &planes, Buffer { format: NV12, ..Buffer::default() })
    }),
    ("create_immed: NV12 with two modifiers", |s| {
        let planes = [
            Plane { stride: 64, ..Plane::default() },
            Plane { index: 1, offset: 4096, stride: 64, modifier: IMPLICIT },
        ];
        immed(s, &planes, Buffer { format: NV12, ..Buffer::default() })
    }),
    ("params: implicit modifier, memory in plain rows (allowed)", |s| {
        one(s, Plane { modifier: IMPLICIT, ..Plane::default() }, Buffer::default())
    }),
    ("params: flags 0x80", |s| one(s, Plane::default(), Buffer { flags: 0x80, ..Buffer::default() })),
    ("create_immed: flags 0x80", |s| {
        immed(s, &[Plane::default()], Buffer { flags: 0x80, ..Buffer::default() })
    }),
    ("params: interlaced", |s| one(s, Plane::default(), Buffer { flags: 2, ..Buffer::default() })),
    ("params: bottom field first", |s| one(s, Plane::default(), Buffer { flags: 4, ..Buffer::default() })),
    ("create_immed: interlaced", |s| immed(s, &[Plane::default()], Buffer { flags: 2, ..Buffer::default() })),
    ("create_immed: bottom field first", |s| {
        immed(s, &[Plane::default()], Buffer { flags: 4, ..Buffer::default() })
    }),
    ("params: y_invert, interlaced, bottom field first", |s| {
        one(s, Plane::default(), Buffer { flags: 7, ..Buffer::default() })
    }),
    ("create_immed: y_invert, interlaced, bottom field first", |s| {
        immed(s, &[Plane::default()], Buffer { flags: 7, ..Buffer::default() })
    }),
    ("create_immed: interlaced, flags 0x80", |s| {
        immed(s, &[Plane::default()], Buffer { flags: 0x82, ..Buffer::default() })
    }),
    ("params: y_invert (allowed)", |s| one(s, Plane::default(), Buffer { flags: 1, ..Buffer::default() })),
];

const FILES: &[(&str, Send)] = &[
    ("params: a pipe", |s| no_buffer(s, "pipe")),
    ("params: a socket", |s| no_buffer(s, "socket")),
    ("params: an O_PATH file", |s| no_buffer(s, "path")),
    ("params: a directory", |s| no_buffer(s, "directory")),
    ("params: a regular file", |s| no_buffer(s, "regular")),
    ("params: /dev/null", |s| no_buffer(s, "null")),
    ("params: an eventfd", |s| no_buffer(s, "eventfd")),
    ("params: an epoll file", |s| no_buffer(s, "epoll")),
    ("params: a memfd that can shrink", |s| no_buffer(s, "memfd")),
    ("create_immed: a pipe", |s| {
        let params = s.params()?;
        s.add_file(params, no_memory("pipe")?.as_fd(), Plane::default())?;
        s.create_immed(params, Buffer::default()).map(|_| ())
    }),
    ("params: NV12, chroma in a pipe", |s| {
        let params = s.params()?;
        s.add(params, Plane { stride: 64, ..Plane::default() })?;
        s.add_file(params, no_memory("pipe")?.as_fd(), Plane { index: 1, stride: 64, ..Plane::default() })?;
        s.create(params, Buffer { format: NV12, ..Buffer::default() })
    }),
    ("wl_display: sync with a file that it does not take", |s| {
        let callback = s.id("wl_callback");
        let file = no_memory("null")?;
        s.raw.send(&message(DISPLAY, 0, &[Arg::U(callback)]), &[file.as_fd()])
    }),
];

const DEVICES: &[(&str, Send)] = &[
    ("set_sampling_device: 0 bytes", |s| sampling(s, &[])),
    ("set_sampling_device: 4 bytes", |s| sampling(s, &[0; 4])),
    ("set_sampling_device: 7 bytes", |s| sampling(s, &[0; 7])),
    ("set_sampling_device: 9 bytes", |s| sampling(s, &[0; 9])),
    ("set_sampling_device: 16 bytes", |s| sampling(s, &[0; 16])),
    ("set_sampling_device: a device that does not exist (allowed)", |s| sampling(s, &[0xee; 8])),
    ("feedback: default", |s| s.make("zwp_linux_dmabuf_feedback_v1", s.dmabuf, 2).map(|_| ())),
    ("feedback: of no surface", |s| s.make_for("zwp_linux_dmabuf_feedback_v1", s.dmabuf, 3, 0).map(|_| ())),
    ("feedback: of what is no surface", |s| {
        s.make_for("zwp_linux_dmabuf_feedback_v1", s.dmabuf, 3, s.shm).map(|_| ())
    }),
    ("feedback: of a surface that is destroyed", |s| {
        let surface = s.surface()?;
        s.request(surface, 0, &[])?;
        s.make_for("zwp_linux_dmabuf_feedback_v1", s.dmabuf, 3, surface).map(|_| ())
    }),
];

const OBJECTS: &[(&str, Send)] = &[
    ("create_immed: id 0", |s| immed_with_id(s, 0)),
    ("create_immed: an id in use", |s| immed_with_id(s, s.shm)),
    ("create_immed: an id of the server's", |s| immed_with_id(s, 0xff00_0000)),
    ("create_immed: an id far ahead", |s| immed_with_id(s, 100_000)),
    ("create_params: id 0", |s| s.request(s.dmabuf, 1, &[Arg::U(0)])),
    ("create_params: an id in use", |s| s.request(s.dmabuf, 1, &[Arg::U(DISPLAY)])),
    ("attach: an object that does not exist", |s| {
        let surface = s.surface()?;
        s.attach(surface, 4242)
    }),
    ("attach: an object that is no wl_buffer", |s| {
        let surface = s.surface()?;
        s.attach(surface, s.shm)
    }),
    ("bind: zwp_linux_dmabuf_v1 version 0", |s| bind(s, "zwp_linux_dmabuf_v1", "zwp_linux_dmabuf_v1", 0)),
    ("bind: zwp_linux_dmabuf_v1 version 99", |s| bind(s, "zwp_linux_dmabuf_v1", "zwp_linux_dmabuf_v1", 99)),
    ("bind: under another interface's name", |s| bind(s, "zwp_linux_dmabuf_v1", "wl_shm", 1)),
    ("bind: without an interface name", |s| {
        let id = s.id("wl_compositor");
        s.request(super::REGISTRY, 0, &[1, 0, 4, id].map(Arg::U))
    }),
    ("bind: without an interface name, on a second registry, and more behind it", |s| {
        let registry = s.make("wl_registry", super::DISPLAY, 1)?;
        let id = s.id("wl_compositor");
        s.request(registry, 0, &[1, 0, 4, id, 0, 0].map(Arg::U))
    }),
    ("bind: a global that does not exist", |s| bind(s, "no such", "no such", 1)),
];

const WIRE: &[(&str, Send)] = &[
    ("wire: an opcode that does not exist", |s| {
        let params = s.params()?;
        s.request(params, 99, &[])
    }),
    ("wire: a request to object 0", |s| s.request(0, 0, &[])),
    ("wire: a request to an object that does not exist", |s| s.request(4242, 0, &[])),
    ("wire: a request to an object of the server's that does not exist", |s| s.request(0xff00_0007, 0, &[])),
    ("wire: a message of 0 bytes", |s| header(s, DISPLAY, 0, 0)),
    ("wire: a message of 4 bytes", |s| header(s, DISPLAY, 0, 4)),
    ("wire: a message of 10 bytes", |s| header(s, DISPLAY, 0, 10)),
    ("wire: a message of 4100 bytes", |s| header(s, DISPLAY, 0, 4100)),
    ("wire: a message of 65532 bytes", |s| header(s, DISPLAY, 0, 65532)),
    ("wire: too few arguments, then 8 KiB more", |s| {
        let params = s.params()?;
        s.request(params, 2, &[Arg::I(64)])?;
        s.raw.send(&message(DISPLAY, 0, &[Arg::U(4000)]).repeat(700), &[])
    }),
    ("wire: too many arguments (ignored)", |s| {
        let surface = s.surface()?;
        s.request(surface, 6, &[Arg::I(64), Arg::I(64)])
    }),
    ("wire: an array longer than its message, then 8 KiB more", |s| {
        let params = s.params()?;
        s.request(params, 4, &[Arg::U(4000)])?;
        s.raw.send(&message(DISPLAY, 0, &[Arg::U(4000)]).repeat(700), &[])
    }),
    ("wire: a string without its end", |s| {
        let name = s.raw.globals.get("wl_shm").map_or(0, |global| global.0);
        let id = s.id("wl_shm");
        // Seven bytes where the last should be 0.
        let words = [Arg::U(name), Arg::A(b"wl_shm!"), Arg::U(1), Arg::U(id)];
        s.request(REGISTRY, 0, &words)
    }),
];

const SHM: &[(&str, Send)] = &[
    ("wl_shm: a pool of 0 bytes", |s| pool(s, 0).map(|_| ())),
    ("wl_shm: a pool of -1 bytes", |s| pool(s, -1).map(|_| ())),
    ("wl_shm: a pool in a pipe", |s| {
        let pool = s.id("wl_shm_pool");
        s.raw.send(&message(s.shm, 0, &[Arg::U(pool), Arg::I(4096)]), &[no_memory("pipe")?.as_fd()])
    }),
    ("wl_shm: a pool resized to 0", |s| resized(s, 0)),
    ("wl_shm: a pool resized to -1", |s| resized(s, -1)),
    ("wl_shm: a pool shrunk", |s| resized(s, 4096)),
    ("wl_shm: a row longer than the stride", |s| pooled(s, [0, 65, 64, 256], 1)),
    ("wl_shm: stride 0", |s| pooled(s, [0, 64, 64, 0], 1)),
    ("wl_shm: stride -256", |s| pooled(s, [0, 64, 64, -256], 1)),
    ("wl_shm: offset -1", |s| pooled(s, [-1, 64, 64, 256], 1)),
    ("wl_shm: one row more than the pool", |s| pooled(s, [0, 64, 65, 256], 1)),
    ("wl_shm: height 2^31-1", |s| pooled(s, [0, 64, i32::MAX, 256], 1)),
    ("wl_shm: width 0", |s| pooled(s, [0, 0, 64, 256], 1)),
    ("wl_shm: a format that does not exist", |s| pooled(s, [0, 64, 64, 256], u32::from_le_bytes(*b"ABCD"))),
];
