//! Which outputs there are and where: they stand side by side, in the order in which they came, and any of them may come, go
//! or change. None at all is a state like others: clients stay connected, and wait for their frame callbacks.
//!
//! It owns what follows from a change: places, globals, windows, pointer. What drives an output is the backend's
//! ([`crate::backend`]); which outputs a surface is on each redraw says ([`crate::output`]).

use std::time::Duration;

use rustix::io::Errno;
use smithay::output::Output;
use smithay::reexports::wayland_server::protocol::wl_output::WlOutput;
use smithay::utils::{Logical, Point, Rectangle};

use crate::backend::OutputId;
use crate::backend::buffers::Buffers;
use crate::backend::kms::Changes;
use crate::import::probe;
use crate::output::OutputState;
use crate::render::Painter;
use crate::shell::layout::Place;
use crate::state::{OutputEntry, State};

/// How long clients may still bind an output that is gone: those who have not read of its end yet would make an error.
const LINGERS: Duration = Duration::from_secs(5);

impl State {
    /// Adds an output to the right of the others.
    pub fn add_output(&mut self, mut output: OutputState) {
        let before = self.places();
        output.position.x = self.space().size.w;
        output.recorder.clone_from(&self.runtime.recorder);
        let position = Some(output.position);
        output.output.change_current_state(None, None, None, position);
        let global = output.output.create_global::<Self>(&self.runtime.display);
        self.outputs.push(OutputEntry { state: output, global });
        // What the new one's planes were seen to refuse holds for planes that it shares.
        self.dmabuf.feedback.planes_changed();
        self.arrange(&before);
    }

    pub(crate) fn remove_output(&mut self, id: OutputId) {
        let before = self.places();
        if let Some(index) = self.outputs.iter().position(|o| o.state.id == id) {
            let mut entry = self.outputs.remove(index);
            entry.state.leave_all(|surface| self.runtime.clients.told(surface));
            self.runtime.display.disable_global::<Self>(entry.global.clone());
            let global = entry.global;
            self.runtime
                .timers
                .after(LINGERS, move |state| state.runtime.display.remove_global::<Self>(global));
        }
        self.dmabuf.feedback.output_gone(&self.runtime.timers, id);
        self.arrange(&before);
    }

    /// Each output's name and area, left to right.
    fn places(&self) -> Vec<Place> {
        self.outputs.iter().map(|o| (o.state.output.name(), o.state.geometry())).collect()
    }

    /// Puts the outputs side by side, and has everything follow that was where they were `before`.
    fn arrange(&mut self, before: &[Place]) {
        let mut x = 0;
        for entry in &mut self.outputs {
            entry.state.position.x = x;
            x += entry.state.size.w;
            let position = Some(entry.state.position);
            entry.state.output.change_current_state(None, None, None, position);
        }
        let after = self.places();
        self.shell.outputs_changed(before, &after);
        // It stays inside of what is left.
        self.pointer_stays();
        self.runtime.clients.set_visible(self.outputs.iter().flat_map(|o| o.state.seen()));
        self.queue_redraw_all();
    }

    /// The rectangle that holds all outputs.
    pub fn space(&self) -> Rectangle<i32, Logical> {
        self.outputs.iter().map(|o| o.state.geometry()).reduce(|a, b| a.merge(b)).unwrap_or_default()
    }

    /// The output that new windows go to.
    pub fn work_area(&self) -> Rectangle<i32, Logical> {
        self.outputs.first().map(|o| o.state.geometry()).unwrap_or_default()
    }

    /// The area of the output at a point.
    pub fn area_at(&self, at: Point<i32, Logical>) -> Option<Rectangle<i32, Logical>> {
        self.outputs.iter().map(|o| o.state.geometry()).find(|area| area.contains(at))
    }

    /// The area of the output that a client names.
    pub fn area_of(&self, output: Option<&WlOutput>) -> Rectangle<i32, Logical> {
        let named = output.and_then(Output::from_resource);
        let entry = self.outputs.iter().find(|o| Some(&o.state.output) == named.as_ref());
        entry.map_or_else(|| self.work_area(), |o| o.state.geometry())
    }

    /// Connectors of a device may have changed, or of any without a number.
    pub fn connectors_changed(&mut self, device: Option<u64>) {
        let Some(kms) = self.backend.kms() else { return };
        match kms.scan(device) {
            Ok(changes) => self.take_changes(changes),
            Err(err) => tracing::warn!(%err, "cannot read the connectors"),
        }
    }

    /// Display devices may have come or gone: drives those that are there.
    pub fn devices_changed(&mut self) {
        let Some(kms) = self.backend.kms() else { return };
        kms.all_buffers().for_each(Buffers::look_at_exporters);
        let first = kms.device_ids().next();
        let mut changes = kms.drop_gone();
        changes.extend(kms.take_in_new().0);
        let is_first = kms.device_ids().next() != first;
        self.take_changes(changes);
        if is_first {
            self.first_device_changed();
        }
    }

    /// A display device is gone, or as good as gone.
    pub fn device_gone(&mut self, slot: u32) {
        let Some(kms) = self.backend.kms() else { return };
        let first = kms.device_ids().next();
        let changes = kms.drop_device(slot);
        let is_first = kms.device_ids().next() != first;
        self.take_changes(changes);
        if is_first {
            self.first_device_changed();
        }
    }

    /// Another device takes clients' buffers in from now on.
    fn first_device_changed(&mut self) {
        self.dmabuf.worker.start_anew();
        if let Painter::Gles(gles) = &mut self.painter {
            self.backend.share_targets(|target| gles.try_shared(target));
        }
    }

    /// Has everything follow what the backend found.
    pub fn take_changes(&mut self, changes: Changes) {
        let Changes { added, removed, resized } = changes;
        if !added.is_empty() {
            probe::added(&mut self.backend, &added);
        }
        let Some(kms) = self.backend.kms() else { return };
        let states: Vec<_> = added.iter().filter_map(|id| crate::run::output_state(kms, *id)).collect();
        // What comes is there before what goes is gone, so that windows have somewhere to go.
        states.into_iter().for_each(|state| self.add_output(state));
        removed.into_iter().for_each(|id| self.remove_output(id));
        resized.into_iter().for_each(|id| self.mode_changed(id));
    }

    /// Turns an output off, or on again; windows stay where they are.
    ///
    /// # Errors
    /// The errno with which the driver refuses to turn it off.
    pub(crate) fn set_power(&mut self, id: OutputId, on: bool) -> Result<(), Errno> {
        let Some(entry) = self.outputs.iter_mut().find(|o| o.state.id == id) else {
            return Err(Errno::NODEV);
        };
        if entry.state.is_off() != on {
            return Ok(());
        }
        // Without mastership it is done when the session is back.
        if let Some(kms) = self.backend.kms().filter(|kms| !on && kms.is_active()) {
            kms.turn_off(id)?;
        }
        tracing::info!(output = entry.state.output.name(), on, "power");
        entry.state.set_off(!on, |surface| self.runtime.clients.told(surface));
        self.runtime.clients.set_visible(self.outputs.iter().flat_map(|o| o.state.seen()));
        self.queue_redraw_where(|output| output.id == id);
        Ok(())
    }

    /// Whoever had the displays meanwhile may have lit those that are off.
    pub(crate) fn keep_off(&mut self) {
        let off: Vec<OutputId> =
            self.outputs.iter().filter(|o| o.state.is_off()).map(|o| o.state.id).collect();
        let Some(kms) = self.backend.kms() else { return };
        for id in off {
            if let Err(err) = kms.turn_off(id) {
                tracing::warn!(%err, output = id, "output not turned off");
            }
        }
    }

    /// An output is driven with another mode from the next frame on.
    pub(crate) fn mode_changed(&mut self, id: OutputId) {
        let Some(info) = self.backend.kms().and_then(|kms| kms.describe(id)) else { return };
        let before = self.places();
        let Some(entry) = self.outputs.iter_mut().find(|o| o.state.id == id) else { return };
        entry.state.set_mode(info.size, info.refresh);
        self.arrange(&before);
    }
}
