//! What clients say of a surface beside its pixels: wp_alpha_modifier_v1, wp_content_type_manager_v1,
//! wp_tearing_control_manager_v1.

use anyhow::Result;

use super::{Arg, Case, Stage};

type Send = fn(&mut Stage) -> Result<()>;

const ALPHA: &str = "wp_alpha_modifier_surface_v1";
const CONTENT: &str = "wp_content_type_v1";
const TEARING: &str = "wp_tearing_control_v1";

/// The opcodes of an object's two requests.
fn opcodes(interface: &str) -> (u16, u16) {
    // Setting and destroying; in the XML of tearing-control they stand the other way round.
    if interface == TEARING { (0, 1) } else { (1, 0) }
}

fn manager(stage: &Stage, interface: &str) -> u32 {
    match interface {
        ALPHA => stage.alpha,
        CONTENT => stage.content_type,
        _ => stage.tearing,
    }
}

fn make(stage: &mut Stage, interface: &'static str, surface: u32) -> Result<u32> {
    stage.make_for(interface, manager(stage, interface), 1, surface)
}

/// A surface with its object.
fn object(stage: &mut Stage, interface: &'static str) -> Result<(u32, u32)> {
    let surface = stage.surface()?;
    let object = make(stage, interface, surface)?;
    Ok((surface, object))
}

fn set(stage: &mut Stage, interface: &str, object: u32, value: u32) -> Result<()> {
    stage.request(object, opcodes(interface).0, &[Arg::U(value)])
}

fn destroy(stage: &mut Stage, interface: &str, object: u32) -> Result<()> {
    stage.request(object, opcodes(interface).1, &[])
}

fn set_and_commit(stage: &mut Stage, interface: &'static str, value: u32) -> Result<()> {
    let (surface, object) = object(stage, interface)?;
    set(stage, interface, object, value)?;
    stage.commit(surface)
}

fn twice(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (surface, _) = object(stage, interface)?;
    make(stage, interface, surface).map(|_| ())
}

fn anew(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (surface, first) = object(stage, interface)?;
    destroy(stage, interface, first)?;
    make(stage, interface, surface)?;
    stage.commit(surface)
}

fn set_without_surface(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (surface, object) = object(stage, interface)?;
    stage.request(surface, 0, &[])?;
    set(stage, interface, object, 1)
}

fn destroyed_after_surface(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (surface, object) = object(stage, interface)?;
    stage.request(surface, 0, &[])?;
    destroy(stage, interface, object)
}

fn used_after_factory(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (surface, object) = object(stage, interface)?;
    let factory = manager(stage, interface);
    stage.request(factory, 0, &[])?;
    set(stage, interface, object, 1)?;
    destroy(stage, interface, object)?;
    stage.commit(surface)
}

fn used_after_destroy(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (_, object) = object(stage, interface)?;
    destroy(stage, interface, object)?;
    set(stage, interface, object, 1)
}

fn destroyed_twice(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (_, object) = object(stage, interface)?;
    destroy(stage, interface, object)?;
    destroy(stage, interface, object)
}

fn of_no_surface(stage: &mut Stage, interface: &'static str) -> Result<()> {
    make(stage, interface, 0xdead).map(|_| ())
}

fn of_something_else(stage: &mut Stage, interface: &'static str) -> Result<()> {
    make(stage, interface, stage.compositor).map(|_| ())
}

fn of_dead_surface(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let surface = stage.surface()?;
    stage.request(surface, 0, &[])?;
    make(stage, interface, surface).map(|_| ())
}

fn no_request(stage: &mut Stage, interface: &'static str) -> Result<()> {
    let (_, object) = object(stage, interface)?;
    stage.request(object, 2, &[Arg::U(1)])
}

const CASES: &[(&str, Send)] = &[
    ("alpha: two objects of a surface", |s| twice(s, ALPHA)),
    ("alpha: another object after the first is destroyed (allowed)", |s| anew(s, ALPHA)),
    ("alpha: a factor of 0 (allowed)", |s| set_and_commit(s, ALPHA, 0)),
    ("alpha: a factor of 2^32-1 (allowed)", |s| set_and_commit(s, ALPHA, u32::MAX)),
    ("alpha: set after the surface is destroyed", |s| set_without_surface(s, ALPHA)),
    ("alpha: destroyed after its surface (allowed)", |s| destroyed_after_surface(s, ALPHA)),
    ("alpha: used after the factory is destroyed (allowed)", |s| used_after_factory(s, ALPHA)),
    ("alpha: used after it is destroyed", |s| used_after_destroy(s, ALPHA)),
    ("alpha: destroyed twice", |s| destroyed_twice(s, ALPHA)),
    ("alpha: of a surface that there is not", |s| of_no_surface(s, ALPHA)),
    ("alpha: of what is no surface", |s| of_something_else(s, ALPHA)),
    ("alpha: of a surface that is destroyed", |s| of_dead_surface(s, ALPHA)),
    ("alpha: a request that does not exist", |s| no_request(s, ALPHA)),
    ("content type: two objects of a surface", |s| twice(s, CONTENT)),
    ("content type: another object after the first is destroyed (allowed)", |s| anew(s, CONTENT)),
    ("content type: 4, which does not exist (ignored)", |s| set_and_commit(s, CONTENT, 4)),
    ("content type: 2^32-1 (ignored)", |s| set_and_commit(s, CONTENT, u32::MAX)),
    ("content type: set after the surface is destroyed (ignored)", |s| set_without_surface(s, CONTENT)),
    ("content type: destroyed after its surface (allowed)", |s| destroyed_after_surface(s, CONTENT)),
    ("content type: used after the factory is destroyed (allowed)", |s| used_after_factory(s, CONTENT)),
    ("content type: used after it is destroyed", |s| used_after_destroy(s, CONTENT)),
    ("content type: destroyed twice", |s| destroyed_twice(s, CONTENT)),
    ("content type: of a surface that there is not", |s| of_no_surface(s, CONTENT)),
    ("content type: of what is no surface", |s| of_something_else(s, CONTENT)),
    ("content type: of a surface that is destroyed", |s| of_dead_surface(s, CONTENT)),
    ("content type: a request that does not exist", |s| no_request(s, CONTENT)),
    ("tearing: two objects of a surface", |s| twice(s, TEARING)),
    ("tearing: another object after the first is destroyed (allowed)", |s| anew(s, TEARING)),
    ("tearing: hint 2, which does not exist (ignored)", |s| set_and_commit(s, TEARING, 2)),
    ("tearing: hint 2^32-1 (ignored)", |s| set_and_commit(s, TEARING, u32::MAX)),
    ("tearing: set after the surface is destroyed (ignored)", |s| set_without_surface(s, TEARING)),
    ("tearing: destroyed after its surface (allowed)", |s| destroyed_after_surface(s, TEARING)),
    ("tearing: used after the factory is destroyed (allowed)", |s| used_after_factory(s, TEARING)),
    ("tearing: used after it is destroyed", |s| used_after_destroy(s, TEARING)),
    ("tearing: destroyed twice", |s| destroyed_twice(s, TEARING)),
    ("tearing: of a surface that there is not", |s| of_no_surface(s, TEARING)),
    ("tearing: of what is no surface", |s| of_something_else(s, TEARING)),
    ("tearing: of a surface that is destroyed", |s| of_dead_surface(s, TEARING)),
    ("tearing: a request that does not exist", |s| no_request(s, TEARING)),
];

/// Adds them.
pub(super) fn list(cases: &mut Vec<Case>) {
    cases.extend(CASES.iter().map(|&(name, send)| Case { name, send }));
}
