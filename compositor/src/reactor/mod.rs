//! What the compositor sleeps in, and the order of a turn.
//!
//! ```text
//!  epoll ──> display: frame shown, next frame           every turn, without a detour
//!       ├──> input devices                             speak twice a frame while a mouse moves
//!       ├──> clients' sockets
//!       └──> calloop: seat, udev, fences, signals,      sources that speak seldom
//!            control socket, import thread
//!  in a turn: timers, what is due by the frame clock; display, input, clients that can be seen; redraws, and what these clients
//!             are told;
//!             all others; clients that wait for their turns; redraws, and what clients are told
//! ```
//!
//! A frame that a plane scans out wakes the compositor twice: it is time to call the client, the client commits. That the
//! display has shown the frame before is read with the first of the two, as long as nobody is to hear of it sooner. calloop
//! makes five system calls around each wait (it sets a timer and arms two descriptors, whether they are used or not), which
//! were half of all the compositor's calls in such a frame. So what belongs to every frame is watched directly, and calloop's
//! own descriptor is watched like one more source.
//!
//! calloop's timers and idle callbacks are not served in time here, since nobody but calloop knows when: [`Timers`] are
//! the timers, and what has to be done at the end of a turn is in `State::end_turn`.
//!
//! Owns: the epoll, what it watches, the order. Does not own: what happens then ([`crate::state`], [`crate::clients`]).

mod clock;
mod timers;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use calloop::{EventLoop, LoopHandle};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

pub use self::clock::Clock;
pub use self::timers::{TimerId, Timers};

use crate::clients::Key;
use crate::state::State;

/// Events that are taken at once.
const EVENTS: usize = 64;
/// Bits of a source's number that tell its kind.
const KIND_BITS: u32 = 3;
/// Nobody who waited for the start has anything more to ask when nothing came for so long.
const QUIET: Duration = Duration::from_millis(3);
/// How long the first picture may have to wait for them.
const OPENING: Duration = Duration::from_millis(30);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Everything that calloop watches.
    Calloop,
    /// The display device of a slot has events.
    Card(u32),
    /// Input devices have events.
    Input,
    /// A client's socket.
    Client(Key),
    /// Our end of the socket pair that a client's requests go to the library through.
    Library(Key),
}

impl Source {
    fn pack(self) -> EventData {
        let (kind, key) = match self {
            Self::Calloop => (0, 0),
            Self::Card(slot) => (1, slot.into()),
            Self::Client(key) => (2, key),
            Self::Library(key) => (3, key),
            Self::Input => (4, 0),
        };
        EventData::new_u64(key << KIND_BITS | kind)
    }

    fn unpack(data: EventData) -> Option<Self> {
        let (kind, key) = (data.u64() & ((1 << KIND_BITS) - 1), data.u64() >> KIND_BITS);
        Some(match kind {
            0 => Self::Calloop,
            1 => Self::Card(u32::try_from(key).ok()?),
            2 => Self::Client(key),
            3 => Self::Library(key),
            4 => Self::Input,
            _ => return None,
        })
    }
}

/// Adds to what the reactor watches. Clones watch for the same reactor.
///
/// What is watched is level-triggered: it is told of again until it has been dealt with.
#[derive(Clone, Debug)]
pub struct Watch(Rc<Sets>);

#[derive(Debug)]
struct Sets {
    all: OwnedFd,
    /// All but the display devices: who sleeps in it is not woken by a frame that is shown.
    but_cards: OwnedFd,
}

impl Sets {
    /// Those that a source is in.
    fn of(&self, source: Source) -> impl Iterator<Item = &OwnedFd> {
        let quiet = !matches!(source, Source::Card(_));
        std::iter::once(&self.all).chain(quiet.then_some(&self.but_cards))
    }
}

impl Watch {
    fn new() -> io::Result<Self> {
        let create = || epoll::create(epoll::CreateFlags::CLOEXEC);
        Ok(Self(Rc::new(Sets { all: create()?, but_cards: create()? })))
    }

    /// Watches a descriptor until [`Watch::remove`]. That it hung up is always told.
    ///
    /// # Errors
    /// When the kernel has no room, or the descriptor is watched already.
    pub fn add(&self, fd: impl AsFd, source: Source, interest: EventFlags) -> io::Result<()> {
        epoll::add(&self.0.all, &fd, source.pack(), interest)?;
        for set in self.0.of(source).skip(1) {
            epoll::add(set, &fd, source.pack(), interest).inspect_err(|_| Self::delete(&self.0.all, &fd))?;
        }
        Ok(())
    }

    /// Watches a descriptor for something else than before.
    ///
    /// # Errors
    /// When the descriptor is not watched.
    pub fn change(&self, fd: impl AsFd, source: Source, interest: EventFlags) -> io::Result<()> {
        self.0.of(source).try_for_each(|set| Ok(epoll::modify(set, &fd, source.pack(), interest)?))
    }

    /// Watches a descriptor no longer.
    pub fn remove(&self, fd: impl AsFd, source: Source) {
        self.0.of(source).for_each(|set| Self::delete(set, &fd));
    }

    fn delete(set: &OwnedFd, fd: impl AsFd) {
        if let Err(err) = epoll::delete(set, fd) {
            tracing::debug!(%err, "a descriptor was not watched");
        }
    }
}

/// The event loop.
#[derive(Debug)]
pub struct Reactor {
    watch: Watch,
    timers: Timers,
    calloop: EventLoop<'static, State>,
}

impl Reactor {
    /// Watches nothing yet but timers and calloop.
    ///
    /// # Errors
    /// When the kernel does not give the descriptors.
    pub fn new() -> anyhow::Result<Self> {
        let calloop = EventLoop::try_new().context("no event loop")?;
        let watch = Watch::new()?;
        watch.add(&calloop, Source::Calloop, EventFlags::IN)?;
        Ok(Self { watch, timers: Timers::default(), calloop })
    }

    /// Takes in sources that speak seldom.
    pub fn handle(&self) -> LoopHandle<'static, State> {
        self.calloop.handle()
    }

    /// Takes in what belongs to every frame.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The timers.
    pub fn timers(&self) -> &Timers {
        &self.timers
    }

    /// Answers those who waited for the start, before anything is drawn: the first picture takes longer than all answers.
    ///
    /// # Errors
    /// When a source fails that the compositor cannot be without.
    pub fn open(&mut self, state: &mut State) -> anyhow::Result<()> {
        let end = state.runtime.clock.read() + OPENING;
        state.runtime.opening = true;
        while state.runtime.exit.is_none() && state.runtime.clock.read() < end {
            let queued = state.runtime.clients.has_queue();
            let happened = self.turn(state, Some(if queued { Duration::ZERO } else { QUIET }))?;
            if !happened && !queued {
                break;
            }
        }
        state.runtime.opening = false;
        Ok(())
    }

    /// Handles events until there is an exit status.
    ///
    /// # Errors
    /// When a source fails that the compositor cannot be without.
    pub fn run(&mut self, state: &mut State) -> anyhow::Result<()> {
        while state.runtime.exit.is_none() {
            let rest = state.rest();
            self.turn(state, rest)?;
        }
        Ok(())
    }

    /// Handles what calloop has, without waiting.
    ///
    /// # Errors
    /// When a source fails that the compositor cannot be without.
    pub fn dispatch_calloop(&mut self, state: &mut State) -> anyhow::Result<()> {
        self.calloop.dispatch(Some(Duration::ZERO), state).map_err(|err| match err {
            calloop::Error::OtherError(source) => anyhow!("{source}"),
            err => anyhow::Error::from(err).context("the event loop failed"),
        })
    }

    /// Sleeps until something happens, for `rest` at most, and handles it. Says whether something did.
    fn turn(&mut self, state: &mut State, rest: Option<Duration>) -> anyhow::Result<bool> {
        let timeout = rest.and_then(|rest| Timespec::try_from(rest).ok());
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        let late = state.flips_can_wait();
        let set = if late { &self.watch.0.but_cards } else { &self.watch.0.all };
        let events = match epoll::wait(set, &mut events, timeout.as_ref()) {
            Ok((events, _)) => &*events,
            Err(rustix::io::Errno::INTR) => &[],
            Err(err) => return Err(anyhow::Error::from(err).context("waiting for events")),
        };
        let sources = || events.iter().filter_map(|event| Some((Source::unpack(event.data)?, event.flags)));
        let now = state.runtime.clock.read();
        if late {
            state.read_late_flips(now);
        }
        self.timers.run_due(state, now);
        state.run_cycles(now);
        // What keeps the display busy comes first, whatever else there is: the next vertical blank should not be missed.
        for (source, flags) in sources() {
            match source {
                Source::Card(slot) => state.card_readable(slot),
                Source::Input => state.input_readable(),
                Source::Client(key) if state.runtime.clients.is_visible(key) => {
                    state.client_ready(key, flags)
                }
                _ => {}
            }
        }
        state.show_changes(now);
        for (source, flags) in sources() {
            match source {
                Source::Card(_) | Source::Input => {}
                Source::Client(key) if state.runtime.clients.is_visible(key) => {}
                Source::Client(key) => state.client_ready(key, flags),
                Source::Library(key) => state.pump_client_unless_late(key),
                Source::Calloop => {
                    self.dispatch_calloop(state)?;
                    state.runtime.clock.read();
                }
            }
        }
        let urgent = sources().any(|(source, _)| matches!(source, Source::Calloop | Source::Input));
        state.end_turn(now, urgent);
        Ok(!events.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_comes_back_as_it_was() {
        let keys = [0, 1, 77, u64::MAX >> KIND_BITS];
        let of_clients = keys.iter().flat_map(|key| [Source::Client(*key), Source::Library(*key)]);
        for source in of_clients.chain([Source::Calloop, Source::Input, Source::Card(0), Source::Card(255)]) {
            assert_eq!(Source::unpack(source.pack()), Some(source));
        }
        assert_eq!(Source::unpack(EventData::new_u64(7)), None);
    }
}
