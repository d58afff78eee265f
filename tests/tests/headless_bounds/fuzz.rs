//! Generated requests: linux-dmabuf, wl_surface, xdg-shell and what goes with them, with boundary values, wrong objects,
//! stray files and garbage, from several connections at once, beside a neighbour that draws.
//!
//! A run is told by its seed. `PRIMEWAY_LONG=1` makes it a million requests, `PRIMEWAY_SEED=N` another run.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use primeway_tests::client::raw::{Arg, DISPLAY, Raw, copies, message};

use crate::headless_support::neighbour::Neighbour;
use crate::headless_support::{Server, memory};

use super::grammar::{GLOBALS, Kind, requests};
use super::{OUTPUT, alone, assert_files_return, files};

/// Requests of a short run and of a long one.
const SHORT: u64 = 30_000;
const LONG: u64 = 1_000_000;
/// Connections at once.
const ACTORS: usize = 4;
/// Requests between two frames of the neighbour.
const BETWEEN_FRAMES: u64 = 500;
/// Resident memory that a long run may add after its first tenth, in KiB.
const GROWTH: u64 = 16 * 1024;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 16) % end.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn choose<T: Copy>(&mut self, list: &[T]) -> Option<T> {
        (!list.is_empty()).then(|| list[self.below(list.len() as u64) as usize])
    }

    fn small(&mut self) -> i32 {
        self.choose(&[0, 1, 8, 16, 16, 16, 64, 64, 64, 64, 256, 256, 1024, 4096, 16384, -1]).unwrap_or(0)
    }

    fn int(&mut self) -> i32 {
        match self.below(8) {
            0 => self
                .choose(&[i32::MIN, i32::MIN + 1, -1, i32::MAX, i32::MAX - 1, 1 << 24, 1 << 30])
                .unwrap_or(0),
            1 => self.next() as i32,
            _ => self.below(300) as i32 - 30,
        }
    }
}

/// xdg_toplevel.set_fullscreen.
const SET_FULLSCREEN: usize = 11;

/// One connection.
struct Actor {
    raw: Raw,
    /// Objects, by interface.
    objects: HashMap<&'static str, Vec<u32>>,
    /// The last serial of a configure event.
    serial: u32,
    /// It sent something whose end the server cannot know, so it may wait for an answer in vain; or it asked for the full
    /// screen, so the neighbour may.
    odd: bool,
    /// What it sent last, for the report of a failure.
    last: VecDeque<String>,
}

impl Actor {
    fn new(server: &Server) -> Actor {
        let mut raw = server.connect_raw().unwrap();
        let mut objects: HashMap<&'static str, Vec<u32>> = HashMap::from([("wl_display", vec![DISPLAY])]);
        for (interface, version) in GLOBALS {
            if raw.globals.contains_key(*interface) {
                let id = raw.bind(interface, *version).unwrap();
                objects.entry(interface).or_default().push(id);
            }
        }
        Actor { raw, objects, serial: 0, odd: false, last: VecDeque::new() }
    }

    fn object(&mut self, random: &mut Random, interface: &str) -> Option<u32> {
        // Sometimes anything but what is asked for.
        if random.one_in(400) {
            self.odd = true;
            return Some(random.below(60) as u32);
        }
        let list = self.objects.get(interface)?;
        // The newest are the most interesting.
        let len = list.len() as u64;
        let at = if random.one_in(3) { random.below(len) } else { len.checked_sub(1 + random.below(3))? };
        list.get(at as usize).copied()
    }

    /// Makes a window that is configured and shown, so that what follows has something to act on.
    fn window(&mut self, random: &mut Random) -> Option<()> {
        let compositor = self.object(random, "wl_compositor")?;
        let base = self.object(random, "xdg_wm_base")?;
        let dmabuf = self.object(random, "zwp_linux_dmabuf_v1")?;
        let surface = self.make("wl_surface", compositor, 0, &[]);
        let xdg_surface = self.make("xdg_surface", base, 2, &[Arg::U(surface)]);
        self.make("xdg_toplevel", xdg_surface, 1, &[]);
        self.raw.request(surface, 6, &[]).unwrap();
        let params = self.make("zwp_linux_buffer_params_v1", dmabuf, 1, &[]);
        let file = memory(16384);
        let add = message(params, 1, &[0, 0, 256, 0, 0].map(Arg::U));
        self.raw.send(&add, &[file.as_fd()]).unwrap();
        let format = Arg::U(u32::from_le_bytes(*b"XR24"));
        let buffer = self.make("wl_buffer", params, 3, &[Arg::I(64), Arg::I(64), format, Arg::U(0)]);
        let answer = if self.odd {
            self.raw.roundtrip_within(Duration::from_millis(100)).unwrap_or(Ok(Vec::new()))
        } else {
            self.raw.roundtrip().unwrap()
        };
        self.hear(&answer.ok()?);
        self.raw.request(xdg_surface, 4, &[Arg::U(self.serial)]).unwrap();
        self.raw.request(surface, 1, &[Arg::U(buffer), Arg::I(0), Arg::I(0)]).unwrap();
        self.raw.request(surface, 6, &[]).unwrap();
        Some(())
    }

    fn make(&mut self, interface: &'static str, by: u32, opcode: u16, rest: &[Arg<'_>]) -> u32 {
        let id = self.raw.id();
        self.objects.entry(interface).or_default().push(id);
        let arguments: Vec<_> = std::iter::once(Arg::U(id)).chain(rest.iter().cloned()).collect();
        self.raw.request(by, opcode, &arguments).unwrap();
        id
    }

    /// Sends one generated request; false if there was nothing to send it to.
    fn act(&mut self, random: &mut Random, known: &[&'static str], null: &File) -> bool {
        if random.one_in(2000) {
            let garbage: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
            self.note(format!("garbage {garbage:?}"));
            self.odd = true;
            self.raw.send(&garbage, &[]).unwrap();
            return true;
        }
        let Some(interface) = random.choose(known) else { return false };
        let Some(object) = self.object(random, interface) else { return false };
        let list = requests(interface);
        let total: u32 = list.iter().map(|(weight, _)| weight).sum();
        let mut at = random.below(u64::from(total)) as u32;
        let Some(opcode) = list.iter().position(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        }) else {
            return false;
        };
        self.odd |= interface == "xdg_toplevel" && opcode == SET_FULLSCREEN;
        let (mut words, mut sent, mut made) = (Vec::new(), Vec::<OwnedFd>::new(), None);
        for kind in list[opcode].1 {
            let Some(word) = self.argument(*kind, random, &mut sent, &mut made) else { return false };
            words.extend(word);
        }
        let text: String = "x".repeat(random.choose(&[0, 1, 7, 255, 3000]).unwrap_or(0));
        let arguments: Vec<Arg<'_>> = words
            .iter()
            .map(|word| match word {
                Word::Number(number) => Arg::U(*number),
                Word::Text => Arg::S(&text),
                Word::Array(bytes) => Arg::A(bytes),
            })
            .collect();
        let mut borrowed: Vec<_> = sent.iter().map(|file| file.as_fd()).collect();
        if random.one_in(500) {
            borrowed.extend(copies(null, random.below(20) as usize));
        }
        self.note(format!("{interface}@{object}.{opcode} {words:?} files {}", borrowed.len()));
        self.raw.send(&message(object, opcode as u16, &arguments), &borrowed).unwrap();
        if let Some((interface, id)) = made {
            self.objects.entry(interface).or_default().push(id);
        }
        // Opcode 0 destroys, except where it creates; display and factories stay.
        let destroys = list[opcode].1.is_empty() && (opcode == 0 || interface == "wl_shm_pool");
        if destroys && let Some(objects) = self.objects.get_mut(interface) {
            objects.retain(|other| *other != object);
        }
        true
    }

    fn argument(
        &mut self,
        kind: Kind,
        random: &mut Random,
        files: &mut Vec<OwnedFd>,
        made: &mut Option<(&'static str, u32)>,
    ) -> Option<Option<Word>> {
        let number = |number: u32| Some(Some(Word::Number(number)));
        match kind {
            Kind::New(interface) => {
                let id = self.raw.id();
                *made = Some((interface, id));
                number(id)
            }
            Kind::Object(interface) => number(self.object(random, interface)?),
            Kind::Maybe(interface) => {
                let object = if random.one_in(5) { None } else { self.object(random, interface) };
                number(object.unwrap_or(0))
            }
            Kind::Int => number(random.int() as u32),
            Kind::Small if random.one_in(40) => number(random.int() as u32),
            Kind::Small => number(random.small() as u32),
            Kind::Uint => number(random.next() as u32),
            Kind::Enum(_) if random.one_in(60) => number(random.next() as u32),
            Kind::Enum(end) => number(random.below(u64::from(end)) as u32),
            Kind::Serial if random.one_in(60) => number(random.next() as u32),
            Kind::Serial => number(self.serial),
            Kind::Fourcc => {
                let name =
                    random.choose(&[*b"XR24", *b"AR24", *b"NV12", *b"P010", *b"YU12", *b"RG24", *b"ABCD"]);
                number(u32::from_le_bytes(name?))
            }
            Kind::Text => Some(Some(Word::Text)),
            Kind::Array => {
                let len = random.choose(&[0, 4, 8, 8, 8, 16])?;
                Some(Some(Word::Array((0..len).map(|_| random.next() as u8).collect())))
            }
            Kind::File => {
                files.push(match random.below(20) {
                    0 => rustix::pipe::pipe().unwrap().0,
                    1 => File::open("/").unwrap().into(),
                    2 => memory(0),
                    _ => memory(16384),
                });
                Some(None)
            }
        }
    }

    fn note(&mut self, text: String) {
        if self.last.len() == 40 {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    fn hear(&mut self, events: &[primeway_tests::client::raw::Event]) {
        for event in events {
            let is = |interface: &str| self.objects.get(interface).is_some_and(|o| o.contains(&event.object));
            if event.opcode == 0 && is("xdg_surface") {
                self.serial = event.word(0);
            } else if event.opcode == 0 && is("zwp_linux_buffer_params_v1") {
                self.objects.entry("wl_buffer").or_default().push(event.word(0));
            } else if event.opcode == 0 && is("wl_data_device") {
                self.objects.entry("wl_data_offer").or_default().push(event.word(0));
            }
        }
    }

    /// Reads what has come; false if the connection has ended.
    fn listen(&mut self) -> bool {
        loop {
            match self.raw.read(Duration::ZERO).unwrap() {
                Ok(events) if events.is_empty() => return true,
                Ok(events) => self.hear(&events),
                Err(_) => return false,
            }
        }
    }
}

#[derive(Debug)]
enum Word {
    Number(u32),
    Text,
    Array(Vec<u8>),
}

/// Resident memory of this process in KiB, and the number of its mappings.
pub fn memory_and_maps() -> (u64, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    (pages * 4, std::fs::read_to_string("/proc/self/maps").unwrap().lines().count())
}

pub fn is_long() -> bool {
    std::env::var_os("PRIMEWAY_LONG").is_some()
}

/// Tells the last requests of every connection if the run fails.
struct Report<'a>(&'a [Actor], u64, u64);

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, request {}", self.1, self.2);
            for actor in self.0 {
                eprintln!("{:#?}", actor.last);
            }
        }
    }
}

#[test]
fn generated_requests_harm_nobody() {
    let _alone = alone();
    let long = is_long();
    let seed = std::env::var("PRIMEWAY_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed_0001);
    let mut random = Random(seed | 1);
    let known: Vec<&'static str> = known();
    let null = File::open("/dev/null").unwrap();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let before = files(&server);
    let mut actors: Vec<Actor> = (0..ACTORS).map(|_| Actor::new(&server)).collect();
    let goal = if long { LONG } else { SHORT };
    let (mut sent, mut ended, mut frames) = (0_u64, 0_u64, 0_u32);
    let (mut resident, mut slowest) = (0, Duration::ZERO);
    let began = Instant::now();
    while sent < goal {
        for actor in &mut actors {
            let mut alive = !random.one_in(10) || actor.window(&mut random).is_some();
            for _ in 0..25 {
                sent += u64::from(alive && actor.act(&mut random, &known, &null));
            }
            alive = alive && actor.listen();
            if !alive {
                ended += 1;
                *actor = Actor::new(&server);
            }
        }
        if sent / BETWEEN_FRAMES > u64::from(frames) {
            // Whoever waits in vain starts again.
            actors.iter_mut().filter(|actor| actor.odd).for_each(|actor| *actor = Actor::new(&server));
            let report = Report(&actors, seed, sent);
            let asked = Instant::now();
            neighbour.frame(frames);
            slowest = slowest.max(asked.elapsed());
            frames += 1;
            drop(report);
        }
        if resident == 0 && sent > goal / 10 {
            resident = memory_and_maps().0;
        }
    }
    let took = began.elapsed();
    drop(actors);
    server.settle().unwrap();
    assert_files_return(&server, before);
    let stats = server.stats().unwrap();
    let (after, maps) = memory_and_maps();
    println!(
        "{sent} requests with seed {seed} in {took:.1?}: {ended} connections ended, {frames} frames of the neighbour, \
         the slowest after {slowest:.0?}; {resident} KiB resident at a tenth, {after} at the end, {maps} mappings"
    );
    assert!(ended > 0, "no request was an error");
    assert!(slowest < Duration::from_secs(2), "the neighbour waited {slowest:?} for a frame");
    assert_eq!(stats.resources.framebuffers, 2, "the neighbour's: {:?}", stats.resources);
    assert!(after < resident + GROWTH, "{resident} KiB at a tenth, {after} KiB at the end");
    neighbour.draws("after the generated requests");
}

/// The interfaces that have requests.
fn known() -> Vec<&'static str> {
    let mut known: Vec<&'static str> = vec!["wl_display"];
    let mut at = 0;
    known.extend(GLOBALS.iter().map(|(interface, _)| interface));
    while at < known.len() {
        let made = requests(known[at]).iter().flat_map(|(_, kinds)| kinds.iter());
        let new: Vec<&'static str> = made
            .filter_map(|kind| match kind {
                Kind::New(interface) if !requests(interface).is_empty() => Some(*interface),
                _ => None,
            })
            .collect();
        for interface in new {
            if !known.contains(&interface) {
                known.push(interface);
            }
        }
        at += 1;
    }
    known
}
