//! wp_color_representation_manager_v1.

use anyhow::Result;

use super::{Arg, Buffer, Case, Plane, Stage};

type Send = fn(&mut Stage) -> Result<()>;

const SURFACE: &str = "wp_color_representation_surface_v1";

/// Numbers of the XML: requests of the surface's object, and values.
const SET_ALPHA_MODE: u16 = 1;
const SET_COEFFICIENTS: u16 = 2;
const SET_LOCATION: u16 = 3;
const IDENTITY: u32 = 1;
const BT709: u32 = 2;
const FULL: u32 = 1;
const LIMITED: u32 = 2;

/// A surface with its object.
fn object(stage: &mut Stage) -> Result<(u32, u32)> {
    let surface = stage.surface()?;
    let object = stage.make_for(SURFACE, stage.color, 1, surface)?;
    Ok((surface, object))
}

fn set(stage: &mut Stage, opcode: u16, values: &[u32]) -> Result<()> {
    let (surface, object) = object(stage)?;
    let values: Vec<Arg<'_>> = values.iter().copied().map(Arg::U).collect();
    stage.request(object, opcode, &values)?;
    stage.commit(surface)
}

/// The same on a surface that gets pixels of a format with that commit.
fn set_on(stage: &mut Stage, format: [u8; 4], opcode: u16, values: &[u32]) -> Result<()> {
    let (surface, object) = object(stage)?;
    let params = stage.params()?;
    if format == *b"NV12" {
        stage.add(params, Plane { stride: 64, ..Plane::default() })?;
        stage.add(params, Plane { index: 1, offset: 4096, stride: 64, ..Plane::default() })?;
    } else {
        stage.add(params, Plane::default())?;
    }
    let buffer = stage.create_immed(params, Buffer { format, ..Buffer::default() })?;
    stage.attach(surface, buffer)?;
    let values: Vec<Arg<'_>> = values.iter().copied().map(Arg::U).collect();
    stage.request(object, opcode, &values)?;
    stage.commit(surface)
}

const CASES: &[(&str, Send)] = &[
    ("color: two objects of a surface", |s| {
        let (surface, _) = object(s)?;
        s.make_for(SURFACE, s.color, 1, surface).map(|_| ())
    }),
    ("color: another object after the first is destroyed (allowed)", |s| {
        let (surface, first) = object(s)?;
        s.request(first, 0, &[])?;
        s.make_for(SURFACE, s.color, 1, surface)?;
        s.commit(surface)
    }),
    ("color: straight alpha", |s| set(s, SET_ALPHA_MODE, &[2])),
    ("color: alpha mode 3", |s| set(s, SET_ALPHA_MODE, &[3])),
    ("color: coefficients 0", |s| set(s, SET_COEFFICIENTS, &[0, LIMITED])),
    ("color: coefficients 9", |s| set(s, SET_COEFFICIENTS, &[9, LIMITED])),
    ("color: coefficients of the FCC", |s| set(s, SET_COEFFICIENTS, &[3, LIMITED])),
    ("color: range 0", |s| set(s, SET_COEFFICIENTS, &[BT709, 0])),
    ("color: range 2^32-1", |s| set(s, SET_COEFFICIENTS, &[BT709, u32::MAX])),
    ("color: identity in limited range", |s| set(s, SET_COEFFICIENTS, &[IDENTITY, LIMITED])),
    ("color: chroma location 0", |s| set(s, SET_LOCATION, &[0])),
    ("color: chroma location 7", |s| set(s, SET_LOCATION, &[7])),
    ("color: identity for XRGB8888 (allowed)", |s| set_on(s, *b"XR24", SET_COEFFICIENTS, &[IDENTITY, FULL])),
    ("color: BT.709 for NV12 (allowed)", |s| set_on(s, *b"NV12", SET_COEFFICIENTS, &[BT709, LIMITED])),
    ("color: BT.709 for XRGB8888", |s| set_on(s, *b"XR24", SET_COEFFICIENTS, &[BT709, LIMITED])),
    ("color: identity for NV12", |s| set_on(s, *b"NV12", SET_COEFFICIENTS, &[IDENTITY, FULL])),
    ("color: a chroma location for XRGB8888", |s| set_on(s, *b"XR24", SET_LOCATION, &[1])),
    ("color: set after the surface is destroyed", |s| {
        let (surface, object) = object(s)?;
        s.request(surface, 0, &[])?;
        s.request(object, SET_COEFFICIENTS, &[Arg::U(BT709), Arg::U(LIMITED)])
    }),
    ("color: destroyed after its surface (allowed)", |s| {
        let (surface, object) = object(s)?;
        s.request(surface, 0, &[])?;
        s.request(object, 0, &[])
    }),
    ("color: used after it is destroyed", |s| {
        let (_, object) = object(s)?;
        s.request(object, 0, &[])?;
        s.request(object, SET_LOCATION, &[Arg::U(1)])
    }),
    ("color: of a surface that there is not", |s| s.make_for(SURFACE, s.color, 1, 0xdead).map(|_| ())),
];

/// Adds them.
pub(super) fn list(cases: &mut Vec<Case>) {
    cases.extend(CASES.iter().map(|&(name, send)| Case { name, send }));
}
