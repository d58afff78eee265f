//! Numbers that smithay 0.7 takes from clients unchecked: they would end in an overflow or an assertion, and with it
//! the session. Each request is checked before smithay sees it: the protocol's error where the XML has one, a bound
//! where it has none.

use smithay::reexports::wayland_protocols::xdg::shell::server::{xdg_positioner, xdg_surface, xdg_toplevel};
use smithay::reexports::wayland_server::Resource;
use smithay::reexports::wayland_server::WEnum;
use smithay::reexports::wayland_server::protocol::{wl_region, wl_subcompositor, wl_subsurface, wl_surface};
use smithay::wayland::compositor::{
    RegionUserData, SubsurfaceUserData, SurfaceAttributes, SurfaceUserData, get_children, get_parent,
    with_states,
};
use smithay::wayland::shell::xdg::{XdgPositionerUserData, XdgShellSurfaceUserData, XdgSurfaceUserData};

use crate::clients::{ClientState, over_quota};

/// Larger than any output, small enough that sums of some of them fit in 32 bits.
const LIMIT: i32 = 1 << 24;

fn coordinate(v: i32) -> i32 {
    v.clamp(-LIMIT, LIMIT)
}

fn length(v: i32) -> i32 {
    v.clamp(0, LIMIT)
}

/// Dispatches an interface to smithay through a check that returns the request to pass on, if any.
macro_rules! guarded_dispatch {
    ($interface:ty, $data:ty => $to:ty, $check:path) => {
        impl smithay::reexports::wayland_server::Dispatch<$interface, $data> for State {
            fn request(
                state: &mut Self,
                client: &smithay::reexports::wayland_server::Client,
                resource: &$interface,
                request: <$interface as smithay::reexports::wayland_server::Resource>::Request,
                data: &$data,
                display: &smithay::reexports::wayland_server::DisplayHandle,
                init: &mut smithay::reexports::wayland_server::DataInit<'_, Self>,
            ) {
                if let Some(request) = $check(resource, request, data) {
                    <$to as smithay::reexports::wayland_server::Dispatch<$interface, $data, Self>>::request(
                        state, client, resource, request, data, display, init,
                    );
                }
            }

            fn destroyed(
                state: &mut Self,
                client: smithay::reexports::wayland_server::backend::ClientId,
                resource: &$interface,
                data: &$data,
            ) {
                <$to as smithay::reexports::wayland_server::Dispatch<$interface, $data, Self>>::destroyed(
                    state, client, resource, data,
                );
            }
        }
    };
}
pub(super) use guarded_dispatch;

/// Rectangles of damage that a commit collects; more are taken for damage everywhere.
const MAX_DAMAGE: usize = 128;

/// Damage beyond the surface means nothing; a transform that does not exist is an error.
pub(super) fn surface(
    surface: &wl_surface::WlSurface,
    request: wl_surface::Request,
    _: &SurfaceUserData,
) -> Option<wl_surface::Request> {
    use wl_surface::Request;
    let damage = matches!(request, Request::Damage { .. } | Request::DamageBuffer { .. });
    if damage && is_damaged_enough(surface) {
        return Some(Request::DamageBuffer { x: 0, y: 0, width: LIMIT, height: LIMIT });
    }
    Some(match request {
        Request::Damage { x, y, width, height } => Request::Damage {
            x: coordinate(x),
            y: coordinate(y),
            width: length(width),
            height: length(height),
        },
        Request::DamageBuffer { x, y, width, height } => Request::DamageBuffer {
            x: coordinate(x),
            y: coordinate(y),
            width: length(width),
            height: length(height),
        },
        Request::SetBufferTransform { transform: WEnum::Unknown(value) } => {
            surface.post_error(wl_surface::Error::InvalidTransform, format!("there is no transform {value}"));
            return None;
        }
        other => other,
    })
}

/// Says whether so much damage is pending that it may as well be everything; then forgets what is pending.
fn is_damaged_enough(surface: &wl_surface::WlSurface) -> bool {
    with_states(surface, |states| {
        let mut attributes = states.cached_state.get::<SurfaceAttributes>();
        let damage = &mut attributes.pending().damage;
        let enough = damage.len() >= MAX_DAMAGE;
        if enough {
            damage.clear();
        }
        enough
    })
}

/// Rectangles of a region: smithay keeps each, and the cost of using them grows with the square of their number.
const MAX_RECTANGLES: u64 = 4096;

pub(super) fn region(
    region: &wl_region::WlRegion,
    request: wl_region::Request,
    _: &RegionUserData,
) -> Option<wl_region::Request> {
    use wl_region::Request;
    let client = region.client()?;
    if let Some(data) = ClientState::of(&client) {
        let mut usage = data.usage();
        if let Request::Destroy = request {
            usage.regions.remove(&region.id());
        } else {
            let rectangles = usage.regions.entry(region.id()).or_default();
            *rectangles += 1;
            let too_many = *rectangles > MAX_RECTANGLES;
            drop(usage);
            if let (true, Some(handle)) = (too_many, region.handle().upgrade()) {
                over_quota(&handle.into(), &client, format!("a wl_region of {MAX_RECTANGLES} rectangles"));
                return None;
            }
        }
    }
    Some(match request {
        Request::Add { x, y, width, height } => {
            Request::Add { x: coordinate(x), y: coordinate(y), width: length(width), height: length(height) }
        }
        Request::Subtract { x, y, width, height } => Request::Subtract {
            x: coordinate(x),
            y: coordinate(y),
            width: length(width),
            height: length(height),
        },
        other => other,
    })
}

/// Trees of subsurfaces may be this deep: smithay merges the cached state of a tree recursively, at a cost that
/// grows with the square of its depth.
const MAX_DEPTH: usize = 64;

pub(super) fn subcompositor(
    subcompositor: &wl_subcompositor::WlSubcompositor,
    request: wl_subcompositor::Request,
    (): &(),
) -> Option<wl_subcompositor::Request> {
    if let wl_subcompositor::Request::GetSubsurface { surface, parent, .. } = &request
        && surface != parent
        && std::iter::successors(get_parent(parent), get_parent).take(MAX_DEPTH + 1).any(|s| s == *surface)
    {
        let text = "the parent is a descendant of the surface";
        subcompositor.post_error(wl_subcompositor::Error::BadParent, text);
        return None;
    }
    if let wl_subcompositor::Request::GetSubsurface { surface, parent, .. } = &request
        && depth(parent) + height(surface) > MAX_DEPTH
    {
        let text = format!("subsurfaces nested deeper than {MAX_DEPTH}");
        subcompositor.post_error(wl_subcompositor::Error::BadSurface, text);
        return None;
    }
    Some(request)
}

/// Surfaces from `surface` up to its root.
fn depth(surface: &wl_surface::WlSurface) -> usize {
    std::iter::successors(Some(surface.clone()), get_parent).take(MAX_DEPTH + 1).count()
}

/// Levels of the tree below and with `surface`.
fn height(surface: &wl_surface::WlSurface) -> usize {
    let mut level = vec![surface.clone()];
    let mut levels = 0;
    while !level.is_empty() && levels <= MAX_DEPTH {
        levels += 1;
        // smithay lists a surface among its own children, as its place in their order.
        level =
            level.iter().flat_map(|s| get_children(s).into_iter().filter(move |child| child != s)).collect();
    }
    levels
}

/// A surface is no sibling of its own.
pub(super) fn subsurface(
    subsurface: &wl_subsurface::WlSubsurface,
    request: wl_subsurface::Request,
    data: &SubsurfaceUserData,
) -> Option<wl_subsurface::Request> {
    use wl_subsurface::Request;
    match request {
        Request::PlaceAbove { sibling } | Request::PlaceBelow { sibling } if sibling == *data.surface() => {
            let text = "the surface is not a sibling of itself";
            subsurface.post_error(wl_subsurface::Error::BadSurface, text);
            None
        }
        Request::SetPosition { x, y } => Some(Request::SetPosition { x: coordinate(x), y: coordinate(y) }),
        other => Some(other),
    }
}

pub(super) fn xdg_surface(
    surface: &xdg_surface::XdgSurface,
    request: xdg_surface::Request,
    _: &XdgSurfaceUserData,
) -> Option<xdg_surface::Request> {
    use xdg_surface::Request;
    match request {
        Request::SetWindowGeometry { width, height, .. } if width <= 0 || height <= 0 => {
            let text = format!("a window geometry of {width}x{height}");
            surface.post_error(xdg_surface::Error::InvalidSize, text);
            None
        }
        Request::SetWindowGeometry { x, y, width, height } => Some(Request::SetWindowGeometry {
            x: coordinate(x),
            y: coordinate(y),
            width: length(width),
            height: length(height),
        }),
        other => Some(other),
    }
}

pub(super) fn xdg_toplevel(
    toplevel: &xdg_toplevel::XdgToplevel,
    request: xdg_toplevel::Request,
    _: &XdgShellSurfaceUserData,
) -> Option<xdg_toplevel::Request> {
    use xdg_toplevel::Request;
    match request {
        Request::SetMaxSize { width, height } | Request::SetMinSize { width, height }
            if width < 0 || height < 0 =>
        {
            toplevel.post_error(xdg_toplevel::Error::InvalidSize, format!("a limit of {width}x{height}"));
            None
        }
        other => Some(other),
    }
}

pub(super) fn xdg_positioner(
    positioner: &xdg_positioner::XdgPositioner,
    request: xdg_positioner::Request,
    _: &XdgPositionerUserData,
) -> Option<xdg_positioner::Request> {
    use xdg_positioner::Request;
    Some(match request {
        // What is below 1 goes on to get its error.
        Request::SetSize { width, height } => {
            Request::SetSize { width: width.min(LIMIT), height: height.min(LIMIT) }
        }
        Request::SetAnchorRect { width, height, .. } if width < 0 || height < 0 => {
            let text = format!("an anchor rectangle of {width}x{height}");
            positioner.post_error(xdg_positioner::Error::InvalidInput, text);
            return None;
        }
        Request::SetAnchorRect { x, y, width, height } => Request::SetAnchorRect {
            x: coordinate(x),
            y: coordinate(y),
            width: width.min(LIMIT),
            height: height.min(LIMIT),
        },
        Request::SetAnchor { anchor: WEnum::Unknown(value) } => {
            positioner.post_error(xdg_positioner::Error::InvalidInput, format!("there is no anchor {value}"));
            return None;
        }
        Request::SetGravity { gravity: WEnum::Unknown(value) } => {
            positioner
                .post_error(xdg_positioner::Error::InvalidInput, format!("there is no gravity {value}"));
            return None;
        }
        Request::SetOffset { x, y } => Request::SetOffset { x: coordinate(x), y: coordinate(y) },
        Request::SetParentSize { parent_width, parent_height } => Request::SetParentSize {
            parent_width: length(parent_width),
            parent_height: length(parent_height),
        },
        other => other,
    })
}
