//! wl_surface, wl_subsurface, wp_viewport and xdg-shell.

use anyhow::Result;

use super::{Arg, Case, Stage};

type Send = fn(&mut Stage) -> Result<()>;

struct Window {
    surface: u32,
    xdg_surface: u32,
    toplevel: u32,
}

/// A toplevel after its first commit.
fn window(stage: &mut Stage) -> Result<Window> {
    let surface = stage.surface()?;
    let xdg_surface = stage.make_for("xdg_surface", stage.wm_base, 2, surface)?;
    let toplevel = stage.make("xdg_toplevel", xdg_surface, 1)?;
    stage.commit(surface)?;
    Ok(Window { surface, xdg_surface, toplevel })
}

fn positioner(stage: &mut Stage) -> Result<u32> {
    let positioner = stage.make("xdg_positioner", stage.wm_base, 1)?;
    stage.request(positioner, 1, &[Arg::I(10), Arg::I(10)])?;
    stage.request(positioner, 2, &[0, 0, 5, 5].map(Arg::I))?;
    Ok(positioner)
}

fn popup(stage: &mut Stage, parent: u32, positioner: u32) -> Result<(u32, u32)> {
    let surface = stage.surface()?;
    let xdg_surface = stage.make_for("xdg_surface", stage.wm_base, 2, surface)?;
    let popup = stage.id("xdg_popup");
    stage.request(xdg_surface, 2, &[Arg::U(popup), Arg::U(parent), Arg::U(positioner)])?;
    Ok((surface, xdg_surface))
}

fn on_surface(stage: &mut Stage, opcode: u16, arguments: &[Arg<'_>]) -> Result<()> {
    let surface = stage.surface()?;
    stage.request(surface, opcode, arguments)
}

fn on_toplevel(stage: &mut Stage, opcode: u16, arguments: &[Arg<'_>]) -> Result<()> {
    let toplevel = window(stage)?.toplevel;
    stage.request(toplevel, opcode, arguments)?;
    Ok(())
}

fn geometry(stage: &mut Stage, rectangle: [i32; 4]) -> Result<()> {
    let window = window(stage)?;
    stage.request(window.xdg_surface, 3, &rectangle.map(Arg::I))?;
    stage.commit(window.surface)
}

fn on_positioner(stage: &mut Stage, opcode: u16, arguments: &[Arg<'_>]) -> Result<()> {
    let positioner = positioner(stage)?;
    stage.request(positioner, opcode, arguments)
}

fn subsurface(stage: &mut Stage, surface: u32, parent: u32) -> Result<u32> {
    let id = stage.id("wl_subsurface");
    stage.request(stage.subcompositor, 1, &[Arg::U(id), Arg::U(surface), Arg::U(parent)])?;
    Ok(id)
}

/// A viewport's request, on a surface with a buffer of 64x64.
fn viewport(stage: &mut Stage, opcode: u16, arguments: &[i32]) -> Result<()> {
    let (surface, buffer) = (stage.surface()?, stage.good_buffer()?);
    let viewport = stage.make_for("wp_viewport", stage.viewporter, 1, surface)?;
    stage.attach(surface, buffer)?;
    let arguments: Vec<_> = arguments.iter().map(|v| Arg::I(*v)).collect();
    stage.request(viewport, opcode, &arguments)?;
    stage.commit(surface)
}

pub(super) fn list(cases: &mut Vec<Case>) {
    for group in [SURFACES, SHELL, POPUPS] {
        cases.extend(group.iter().map(|&(name, send)| Case { name, send }));
    }
}

/// 1 as wl_fixed.
const ONE: i32 = 256;

const SURFACES: &[(&str, Send)] = &[
    ("wl_surface: scale 0", |s| on_surface(s, 8, &[Arg::I(0)])),
    ("wl_surface: scale -1", |s| on_surface(s, 8, &[Arg::I(-1)])),
    ("wl_surface: transform 8", |s| on_surface(s, 7, &[Arg::I(8)])),
    ("wl_surface: transform -1", |s| on_surface(s, 7, &[Arg::I(-1)])),
    ("wl_surface: attach with an offset in version 6", |s| {
        on_surface(s, 1, &[Arg::U(0), Arg::I(1), Arg::I(1)])
    }),
    ("wl_surface: 64x64 at scale 3", |s| {
        let (surface, buffer) = (s.surface()?, s.good_buffer()?);
        s.attach(surface, buffer)?;
        s.request(surface, 8, &[Arg::I(3)])?;
        s.commit(surface)
    }),
    ("wl_surface: destroyed before its role", |s| {
        let window = window(s)?;
        s.request(window.surface, 0, &[])
    }),
    ("wl_surface: damage of -2^31 by 2^31-1 (allowed)", |s| {
        on_surface(s, 2, &[i32::MIN, i32::MIN, i32::MAX, i32::MAX].map(Arg::I))
    }),
    ("wl_subsurface: of itself", |s| {
        let surface = s.surface()?;
        subsurface(s, surface, surface).map(|_| ())
    }),
    ("wl_subsurface: of its own child", |s| {
        let (parent, child) = (s.surface()?, s.surface()?);
        subsurface(s, child, parent)?;
        subsurface(s, parent, child).map(|_| ())
    }),
    ("wl_subsurface: twice", |s| {
        let (parent, child) = (s.surface()?, s.surface()?);
        subsurface(s, child, parent)?;
        subsurface(s, child, parent).map(|_| ())
    }),
    ("wl_subsurface: a window", |s| {
        let (parent, window) = (s.surface()?, window(s)?);
        subsurface(s, window.surface, parent).map(|_| ())
    }),
    ("wl_subsurface: above a stranger", |s| {
        let (parent, child, stranger) = (s.surface()?, s.surface()?, s.surface()?);
        let role = subsurface(s, child, parent)?;
        s.request(role, 2, &[Arg::U(stranger)])
    }),
    ("wl_subsurface: below itself", |s| {
        let (parent, child) = (s.surface()?, s.surface()?);
        let role = subsurface(s, child, parent)?;
        s.request(role, 3, &[Arg::U(child)])
    }),
    ("wp_viewport: two of one surface", |s| {
        let surface = s.surface()?;
        s.make_for("wp_viewport", s.viewporter, 1, surface)?;
        s.make_for("wp_viewport", s.viewporter, 1, surface).map(|_| ())
    }),
    ("wp_viewport: source at -1", |s| viewport(s, 1, &[-ONE, 0, ONE, ONE])),
    ("wp_viewport: source of no size", |s| viewport(s, 1, &[0, 0, 0, 0])),
    ("wp_viewport: source outside the buffer", |s| viewport(s, 1, &[0, 0, 65 * ONE, ONE])),
    ("wp_viewport: source of 1.5 without a destination", |s| viewport(s, 1, &[0, 0, ONE + ONE / 2, ONE])),
    ("wp_viewport: destination 0x0", |s| viewport(s, 2, &[0, 0])),
    ("wp_viewport: destination -1x5", |s| viewport(s, 2, &[-1, 5])),
    ("wp_viewport: used after its surface is destroyed", |s| {
        let surface = s.surface()?;
        let viewport = s.make_for("wp_viewport", s.viewporter, 1, surface)?;
        s.request(surface, 0, &[])?;
        s.request(viewport, 2, &[Arg::I(5), Arg::I(5)])
    }),
];

const SHELL: &[(&str, Send)] = &[
    ("xdg_surface: of a surface with a buffer", |s| {
        let (surface, buffer) = (s.surface()?, s.good_buffer()?);
        s.attach(surface, buffer)?;
        s.commit(surface)?;
        s.make_for("xdg_surface", s.wm_base, 2, surface).map(|_| ())
    }),
    ("xdg_surface: two roles", |s| {
        let window = window(s)?;
        s.make("xdg_toplevel", window.xdg_surface, 1).map(|_| ())
    }),
    ("xdg_surface: of a subsurface", |s| {
        let (parent, child) = (s.surface()?, s.surface()?);
        subsurface(s, child, parent)?;
        let xdg_surface = s.make_for("xdg_surface", s.wm_base, 2, child)?;
        s.make("xdg_toplevel", xdg_surface, 1).map(|_| ())
    }),
    ("xdg_surface: a buffer before the first configure is acknowledged", |s| {
        let (surface, buffer) = (s.surface()?, s.good_buffer()?);
        let xdg_surface = s.make_for("xdg_surface", s.wm_base, 2, surface)?;
        s.make("xdg_toplevel", xdg_surface, 1)?;
        s.attach(surface, buffer)?;
        s.commit(surface)
    }),
    ("xdg_surface: a serial that was not sent", |s| {
        let window = window(s)?;
        s.request(window.xdg_surface, 4, &[Arg::U(0xdead_beef)])
    }),
    ("xdg_surface: acknowledged without a role", |s| {
        let surface = s.surface()?;
        let xdg_surface = s.make_for("xdg_surface", s.wm_base, 2, surface)?;
        s.request(xdg_surface, 4, &[Arg::U(1)])
    }),
    ("xdg_surface: destroyed before its role", |s| {
        let window = window(s)?;
        s.request(window.xdg_surface, 0, &[])
    }),
    ("xdg_wm_base: destroyed before its surfaces", |s| {
        window(s)?;
        s.request(s.wm_base, 0, &[])
    }),
    ("xdg_wm_base: a pong without a ping (allowed)", |s| s.request(s.wm_base, 3, &[Arg::U(77)])),
    ("xdg_surface: geometry 0x0", |s| geometry(s, [0, 0, 0, 0])),
    ("xdg_surface: geometry -1x5", |s| geometry(s, [0, 0, -1, 5])),
    ("xdg_surface: geometry of 2^31-1 at -2^31 (bounded)", |s| {
        geometry(s, [i32::MIN, i32::MIN, i32::MAX, i32::MAX])
    }),
    ("xdg_toplevel: most size -1x-1", |s| on_toplevel(s, 7, &[Arg::I(-1), Arg::I(-1)])),
    ("xdg_toplevel: least size -1x5", |s| on_toplevel(s, 8, &[Arg::I(-1), Arg::I(5)])),
    ("xdg_toplevel: least size above the most", |s| {
        let window = window(s)?;
        s.request(window.toplevel, 7, &[Arg::I(10), Arg::I(10)])?;
        s.request(window.toplevel, 8, &[Arg::I(20), Arg::I(20)])?;
        s.commit(window.surface)
    }),
    ("xdg_toplevel: its own parent", |s| {
        let window = window(s)?;
        s.request(window.toplevel, 1, &[Arg::U(window.toplevel)])
    }),
    ("xdg_toplevel: fullscreen on an object that is no output", |s| {
        on_toplevel(s, 11, &[Arg::U(DISPLAY_OBJECT)])
    }),
];

/// wl_display, which is no output.
const DISPLAY_OBJECT: u32 = 1;

const POPUPS: &[(&str, Send)] = &[
    ("xdg_positioner: size 0x5", |s| on_positioner(s, 1, &[Arg::I(0), Arg::I(5)])),
    ("xdg_positioner: size -1x5", |s| on_positioner(s, 1, &[Arg::I(-1), Arg::I(5)])),
    ("xdg_positioner: anchor rectangle of -1x5", |s| on_positioner(s, 2, &[0, 0, -1, 5].map(Arg::I))),
    ("xdg_positioner: anchor 99", |s| on_positioner(s, 3, &[Arg::U(99)])),
    ("xdg_positioner: gravity 99", |s| on_positioner(s, 4, &[Arg::U(99)])),
    ("xdg_popup: a positioner that says nothing", |s| {
        let parent = window(s)?.xdg_surface;
        let positioner = s.make("xdg_positioner", s.wm_base, 1)?;
        popup(s, parent, positioner).map(|_| ())
    }),
    ("xdg_popup: without a parent, committed", |s| {
        let positioner = positioner(s)?;
        let (surface, _) = popup(s, 0, positioner)?;
        s.commit(surface)
    }),
    ("xdg_popup: its own parent", |s| {
        let positioner = positioner(s)?;
        let surface = s.surface()?;
        let xdg_surface = s.make_for("xdg_surface", s.wm_base, 2, surface)?;
        let popup = s.id("xdg_popup");
        s.request(xdg_surface, 2, &[Arg::U(popup), Arg::U(xdg_surface), Arg::U(positioner)])
    }),
    ("xdg_popup: a parent without a role", |s| {
        let positioner = positioner(s)?;
        let surface = s.surface()?;
        let parent = s.make_for("xdg_surface", s.wm_base, 2, surface)?;
        popup(s, parent, positioner).map(|_| ())
    }),
    ("xdg_popup: its window destroyed first", |s| {
        let (window, positioner) = (window(s)?, positioner(s)?);
        popup(s, window.xdg_surface, positioner)?;
        s.request(window.toplevel, 0, &[])
    }),
    ("xdg_popup: 300 of one another", |s| {
        let (window, positioner) = (window(s)?, positioner(s)?);
        let mut parent = window.xdg_surface;
        for _ in 0..300 {
            let (surface, xdg_surface) = popup(s, parent, positioner)?;
            s.commit(surface)?;
            parent = xdg_surface;
        }
        Ok(())
    }),
];
