//! The event sources of a session: seat, card, udev and libinput.

use std::os::fd::AsFd;

use calloop::generic::Generic;
use calloop::{EventSource, Interest, LoopHandle, Mode, PostAction};
use smithay::backend::libinput::{LibinputInputBackend, LibinputSessionInterface};
use smithay::backend::session::Event as SessionEvent;
use smithay::backend::session::Session;
use smithay::backend::session::libseat::LibSeatSessionNotifier;
use smithay::backend::udev::{UdevBackend, UdevEvent};
use smithay::reexports::input::Libinput;

use super::{Kms, StartError};
use crate::state::State;

fn source<S>(
    handle: &LoopHandle<'static, State>,
    what: &'static str,
    source: S,
    callback: impl FnMut(S::Event, &mut S::Metadata, &mut State) -> S::Ret + 'static,
) -> Result<(), StartError>
where
    S: EventSource + 'static,
{
    handle
        .insert_source(source, callback)
        .map(|_| ())
        .map_err(|err| StartError::Source { what, reason: err.error.to_string() })
}

/// Connects a started backend to the event loop.
///
/// # Errors
/// When a source cannot be set up.
pub fn insert_sources(
    handle: &LoopHandle<'static, State>,
    kms: &Kms,
    notifier: LibSeatSessionNotifier,
) -> Result<(), StartError> {
    let failed =
        |what| move |err: &dyn std::fmt::Display| StartError::Source { what, reason: err.to_string() };
    let session = kms.session.clone();
    let seat = session.seat();

    let mut libinput = Libinput::new_with_udev(LibinputSessionInterface::from(session));
    libinput.udev_assign_seat(&seat).map_err(|()| failed("libinput")(&"no udev seat"))?;
    let mut context = libinput.clone();
    source(handle, "libinput", LibinputInputBackend::new(libinput), |event, _, state| {
        state.input_event(event);
    })?;

    source(handle, "the session", notifier, move |event, (), state| match event {
        SessionEvent::PauseSession => {
            context.suspend();
            state.session_paused();
        }
        SessionEvent::ActivateSession => {
            if context.resume().is_err() {
                tracing::warn!("libinput did not resume");
            }
            state.session_resumed();
        }
    })?;

    let fd = kms.card.as_fd().try_clone_to_owned().map_err(|err| failed("the card")(&err))?;
    let events = Generic::new(fd, Interest::READ, Mode::Level);
    source(handle, "the card", events, |_, _, state: &mut State| {
        state.card_readable();
        Ok(PostAction::Continue)
    })?;

    let monitor = UdevBackend::new(&seat).map_err(|err| failed("udev")(&err))?;
    source(handle, "udev", monitor, |event, (), state| match event {
        UdevEvent::Changed { device_id } => state.device_changed(device_id),
        UdevEvent::Added { .. } | UdevEvent::Removed { .. } => {
            tracing::debug!("a display device came or went");
            state.exporters_changed();
        }
    })
}
