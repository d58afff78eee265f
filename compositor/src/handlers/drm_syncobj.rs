//! wp_linux_drm_syncobj_manager_v1: timelines of clients are imported into a device of ours. What comes with commits is
//! taken in in `fences`.

use std::os::fd::{AsFd as _, OwnedFd};

use primeway_protocols::delegate_drm_syncobj;
use primeway_protocols::drm_syncobj::{DrmSyncobjHandler, DrmSyncobjState, ImportTimelineError};
use smithay::reexports::wayland_server::Client;

use crate::clients::{ClientState, over_quota};
use crate::fences::Timeline;
use crate::state::State;

impl DrmSyncobjHandler for State {
    type Timeline = Timeline;

    fn drm_syncobj_state(&mut self) -> &mut DrmSyncobjState<Timeline> {
        &mut self.runtime.fences.explicit.protocol
    }

    fn import_timeline(&mut self, client: &Client, fd: OwnedFd) -> Result<Timeline, ImportTimelineError> {
        let data = ClientState::of(client).ok_or(ImportTimelineError::Invalid)?;
        data.usage().took_file();
        let held = data.timelines.count();
        if held >= data.limits.timelines {
            over_quota(&self.runtime.display, client, format!("{held} timelines"));
            return Err(ImportTimelineError::Ended);
        }
        let imported = self.runtime.fences.explicit.import(fd.as_fd(), &data.timelines);
        imported.ok_or(ImportTimelineError::Invalid)
    }
}

delegate_drm_syncobj!(State);
