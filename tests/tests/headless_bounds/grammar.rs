//! The requests that the fuzzer knows: what each takes, by interface. No rule of any protocol is here.

/// What a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new object of an interface.
    New(&'static str),
    /// An object of an interface.
    Object(&'static str),
    /// An object of an interface, or none.
    Maybe(&'static str),
    /// A signed number.
    Int,
    /// A small number that mostly means something: a size, a scale, an offset.
    Small,
    /// An unsigned number.
    Uint,
    /// One of so many values of an enum.
    Enum(u32),
    /// The serial of the last configure event.
    Serial,
    /// A number of a fourcc.
    Fourcc,
    /// A string.
    Text,
    /// A device number.
    Array,
    /// A file.
    File,
}

use Kind::{Array, Enum, File, Fourcc, Int, Maybe, New, Object, Serial, Small, Text, Uint};

/// A request: how often it comes, and its arguments. The opcode is its place in the list.
pub type Request = (u32, &'static [Kind]);

/// The requests of an interface in the order of their opcodes; those of weight 0 never come.
pub fn requests(interface: &str) -> &'static [Request] {
    match interface {
        "wl_display" => &[(4, &[New("wl_callback")]), (1, &[New("wl_registry")])],
        "wl_compositor" => &[(8, &[New("wl_surface")]), (4, &[New("wl_region")])],
        "wl_surface" => &[
            (2, &[]),
            (20, &[Maybe("wl_buffer"), Small, Small]),
            (8, &[Int, Int, Int, Int]),
            (8, &[New("wl_callback")]),
            (4, &[Maybe("wl_region")]),
            (4, &[Maybe("wl_region")]),
            (30, &[]),
            (2, &[Enum(9)]),
            (2, &[Enum(4)]),
            (8, &[Int, Int, Int, Int]),
            (2, &[Int, Int]),
        ],
        "wl_region" => &[(2, &[]), (6, &[Int, Int, Int, Int]), (4, &[Int, Int, Int, Int])],
        "wl_subcompositor" => {
            &[(0, &[]), (8, &[New("wl_subsurface"), Object("wl_surface"), Object("wl_surface")])]
        }
        "wl_subsurface" => &[
            (2, &[]),
            (6, &[Int, Int]),
            (2, &[Object("wl_surface")]),
            (2, &[Object("wl_surface")]),
            (4, &[]),
            (4, &[]),
        ],
        "wl_shm" => &[(6, &[New("wl_shm_pool"), File, Small])],
        "wl_shm_pool" => {
            &[(8, &[New("wl_buffer"), Small, Small, Small, Small, Enum(3)]), (2, &[]), (2, &[Small])]
        }
        "wl_buffer" => &[(2, &[])],
        "zwp_linux_dmabuf_v1" => &[(0, &[]), (10, &[New("zwp_linux_buffer_params_v1")])],
        "zwp_linux_buffer_params_v1" => &[
            (4, &[]),
            (12, &[File, Enum(5), Small, Small, Enum(2), Enum(2)]),
            (6, &[Small, Small, Fourcc, Enum(9)]),
            (6, &[New("wl_buffer"), Small, Small, Fourcc, Enum(9)]),
            (1, &[Array]),
        ],
        "xdg_wm_base" => &[
            (0, &[]),
            (4, &[New("xdg_positioner")]),
            (6, &[New("xdg_surface"), Object("wl_surface")]),
            (1, &[Uint]),
        ],
        "xdg_positioner" => &[
            (1, &[]),
            (6, &[Small, Small]),
            (6, &[Int, Int, Small, Small]),
            (2, &[Enum(10)]),
            (2, &[Enum(10)]),
            (2, &[Uint]),
            (3, &[Int, Int]),
            (1, &[]),
            (1, &[Int, Int]),
            (1, &[Serial]),
        ],
        "xdg_surface" => &[
            (1, &[]),
            (6, &[New("xdg_toplevel")]),
            (6, &[New("xdg_popup"), Maybe("xdg_surface"), Object("xdg_positioner")]),
            (4, &[Int, Int, Int, Int]),
            (8, &[Serial]),
        ],
        "xdg_toplevel" => &[
            (2, &[]),
            (2, &[Maybe("xdg_toplevel")]),
            (2, &[Text]),
            (2, &[Text]),
            (1, &[Object("wl_seat"), Serial, Int, Int]),
            (1, &[Object("wl_seat"), Serial]),
            (1, &[Object("wl_seat"), Serial, Enum(12)]),
            (2, &[Int, Int]),
            (2, &[Int, Int]),
            (2, &[]),
            (2, &[]),
            (2, &[Maybe("wl_output")]),
            (2, &[]),
            (1, &[]),
        ],
        "xdg_popup" => &[(2, &[]), (2, &[Object("wl_seat"), Serial]), (3, &[Object("xdg_positioner"), Uint])],
        "wl_seat" => &[(1, &[New("wl_pointer")]), (1, &[New("wl_keyboard")]), (1, &[New("wl_touch")])],
        "wl_pointer" => &[(2, &[Serial, Maybe("wl_surface"), Int, Int]), (1, &[])],
        "wl_keyboard" | "wl_touch" => &[(1, &[])],
        "wp_viewporter" => &[(0, &[]), (4, &[New("wp_viewport"), Object("wl_surface")])],
        "wp_viewport" => &[(2, &[]), (4, &[Int, Int, Int, Int]), (4, &[Small, Small])],
        "wp_presentation" => &[(0, &[]), (4, &[Object("wl_surface"), New("wp_presentation_feedback")])],
        "wl_data_device_manager" => {
            &[(2, &[New("wl_data_source")]), (1, &[New("wl_data_device"), Object("wl_seat")])]
        }
        "wl_data_source" => &[(3, &[Text]), (1, &[]), (1, &[Uint])],
        "wl_data_device" => &[
            (1, &[Maybe("wl_data_source"), Object("wl_surface"), Maybe("wl_surface"), Serial]),
            (2, &[Maybe("wl_data_source"), Serial]),
            (1, &[]),
        ],
        "zxdg_output_manager_v1" => &[(0, &[]), (1, &[New("zxdg_output_v1"), Object("wl_output")])],
        "zxdg_output_v1" => &[(1, &[])],
        "wp_alpha_modifier_v1" => {
            &[(0, &[]), (3, &[New("wp_alpha_modifier_surface_v1"), Object("wl_surface")])]
        }
        "wp_alpha_modifier_surface_v1" => &[(2, &[]), (4, &[Uint])],
        "wp_content_type_manager_v1" => &[(0, &[]), (3, &[New("wp_content_type_v1"), Object("wl_surface")])],
        "wp_content_type_v1" => &[(2, &[]), (4, &[Enum(5)])],
        "wp_tearing_control_manager_v1" => {
            &[(0, &[]), (3, &[New("wp_tearing_control_v1"), Object("wl_surface")])]
        }
        "wp_tearing_control_v1" => &[(4, &[Enum(3)]), (2, &[])],
        "wp_color_representation_manager_v1" => {
            &[(0, &[]), (3, &[New("wp_color_representation_surface_v1"), Object("wl_surface")])]
        }
        "wp_color_representation_surface_v1" => {
            &[(2, &[]), (2, &[Enum(4)]), (6, &[Enum(10), Enum(4)]), (4, &[Enum(8)])]
        }
        _ => &[],
    }
}

/// Globals that the fuzzer binds, with the version.
pub const GLOBALS: &[(&str, u32)] = &[
    ("wl_compositor", 6),
    ("wl_subcompositor", 1),
    ("wl_shm", 1),
    ("zwp_linux_dmabuf_v1", 6),
    ("xdg_wm_base", 6),
    ("wl_seat", 7),
    ("wl_output", 4),
    ("wp_viewporter", 1),
    ("wp_presentation", 1),
    ("wl_data_device_manager", 3),
    ("zxdg_output_manager_v1", 3),
    ("wp_alpha_modifier_v1", 1),
    ("wp_content_type_manager_v1", 1),
    ("wp_tearing_control_manager_v1", 1),
    ("wp_color_representation_manager_v1", 1),
];
