//! `export_plugin!`: what turns a crate into a plugin library.
//!
//! It embeds the manifest in a section of its own, so that a host can read it by parsing the file,
//! and exports the root module under the symbol that `abi_stable` looks for.

/// Makes this crate (of type `cdylib`) a plugin.
///
/// ```ignore
/// qhost_plugin_api::export_plugin! {
///     id: "example",
///     summary: "An example format",
///     api: "^1.0",
///     formats: [
///         {
///             id: "example",
///             summary: "Rows of bytes",
///             levels: ["small", "large"],
///             // All three may be left out. The first two are for plugins with the service `reader/1`: how its files
///             // are known, or its folders, by what a JSON file in them says.
///             reads: { ending: "rows", magic: "524f5753" },
///             folders: [{ file: "config.json", key: "packing.method", value: "rows" }],
///             loaders: ["row-runner"],
///         },
///     ],
///     // May be left out: for plugins with the service `transcode/1`, which may do without formats.
///     transcodes: [{ from: "example/rows", to: "grouped-affine" }],
///     plugin: ExampleFormat,
/// }
/// ```
///
/// One program can hold one plugin: keep code that others are to use in a crate without this macro.
///
/// `plugin` is a type that implements [`Format`](crate::sdk::Format). Version, licence and homepage
/// are the crate's own. The texts are JSON string contents and may hold neither `"` nor `\` nor control
/// characters, ids are made of a-z, 0-9 and hyphens; that is checked at compile time. The manifest is
/// also available to the crate as `MANIFEST_JSON`.
#[macro_export]
macro_rules! export_plugin {
    (
        id: $id:literal,
        summary: $summary:literal,
        api: $api:literal,
        formats: [ $($described:tt),* $(,)? ],
        $(transcodes: [
            { from: $from:literal, to: $to:literal } $(, { from: $more_from:literal, to: $more_to:literal })* $(,)?
        ],)?
        plugin: $format:ty $(,)?
    ) => {
        #[cfg(panic = "abort")]
        ::core::compile_error!("a plugin contains its panics, so it is built with panic = \"unwind\"");

        /// The manifest of this plugin, as in the library's manifest section.
        pub const MANIFEST_JSON: &str = ::core::concat!(
            "{\"schema\":\"qhost.manifest/1\",\"id\":\"", $id,
            "\",\"version\":\"", ::core::env!("CARGO_PKG_VERSION"),
            "\",\"abi\":\"abi_stable-0.11\",\"api\":\"", $api,
            "\",\"summary\":\"", $summary,
            "\",\"license\":\"", ::core::env!("CARGO_PKG_LICENSE"),
            "\",\"homepage\":\"", ::core::env!("CARGO_PKG_HOMEPAGE"),
            "\",\"formats\":[", $crate::__manifest_formats!($($described),*), "]",
            $(
                ",\"transcodes\":[{\"from\":\"", $from, "\",\"to\":\"", $to,
                $("\"},{\"from\":\"", $more_from, "\",\"to\":\"", $more_to,)*
                "\"}]",
            )?
            "}",
        );

        const _: () = {
            $crate::export::assert_plain(&[
                $id, $summary, $api, ::core::env!("CARGO_PKG_LICENSE"), ::core::env!("CARGO_PKG_HOMEPAGE"),
            ]);
            $crate::export::assert_id($id);
            $($crate::__check_manifest_format!($described);)*
            $($crate::export::assert_plain(&[$from, $to, $($more_from, $more_to),*]);)?

            #[used]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__qhost"))]
            #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".qhost"))]
            static MANIFEST_SECTION: [u8; MANIFEST_JSON.len()] = $crate::export::section(MANIFEST_JSON);

            extern "C" fn manifest() -> $crate::export::RStr<'static> {
                // Reading the section itself keeps linkers from dropping it as unreferenced.
                match ::core::str::from_utf8(&MANIFEST_SECTION) {
                    Ok(text) => text.into(),
                    Err(_) => "".into(),
                }
            }

            extern "C" fn connect(
                host: $crate::abi::HostObject,
                facts: $crate::export::RStr<'_>,
            ) -> $crate::export::RResult<$crate::abi::PluginObject, $crate::abi::Failure> {
                // SAFETY: the host that loads the library keeps the border's contract.
                unsafe { $crate::sdk::connect::<$format>(host, &facts) }
            }

            extern "C" fn root_module() -> $crate::export::RootModuleResult {
                $crate::export::root_module($crate::abi::PluginModule { manifest, connect })
            }

            // The name is `abi_stable::library::ROOT_MODULE_LOADER_NAME`.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static ROOT: $crate::export::LibHeader = $crate::export::lib_header(root_module);
        };
    };
}

/// The formats of a manifest, of which a plugin that only transcodes has none.
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest_formats {
    () => { "" };
    ($first:tt $(, $rest:tt)*) => {
        ::core::concat!($crate::__manifest_format!($first), $(",", $crate::__manifest_format!($rest),)*)
    };
}

/// One format of a manifest; its lists are put together here.
#[doc(hidden)]
#[macro_export]
macro_rules! __manifest_format {
    ({
        id: $id:literal, summary: $summary:literal, levels: [ $first:literal $(, $rest:literal)* $(,)? ] $(,)?
        $(reads: { ending: $ending:literal, magic: $magic:literal } $(,)?)?
        $(folders: [ { file: $file:literal, key: $key:literal, value: $value:literal }
            $(, { file: $more_file:literal, key: $more_key:literal, value: $more_value:literal })* $(,)? ] $(,)?)?
        $(loaders: [ $loader:literal $(, $more_loaders:literal)* $(,)? ] $(,)?)?
    }) => {
        ::core::concat!(
            "{\"id\":\"", $id, "\",\"summary\":\"", $summary,
            "\",\"levels\":[\"", $first, "\"", $(",\"", $rest, "\"",)* "]",
            $(",\"reads\":[{\"ending\":\"", $ending, "\",\"magic\":\"", $magic, "\"}]",)?
            $(
                ",\"folders\":[{\"file\":\"", $file, "\",\"key\":\"", $key, "\",\"value\":\"", $value,
                $("\"},{\"file\":\"", $more_file, "\",\"key\":\"", $more_key, "\",\"value\":\"", $more_value,)*
                "\"}]",
            )?
            $(",\"loaders\":[\"", $loader, "\"", $(",\"", $more_loaders, "\"",)* "]",)?
            "}",
        )
    };
}

/// Checks the texts of one format.
#[doc(hidden)]
#[macro_export]
macro_rules! __check_manifest_format {
    ({
        id: $id:literal, summary: $summary:literal, levels: [ $($level:literal),+ $(,)? ] $(,)?
        $(reads: { ending: $ending:literal, magic: $magic:literal } $(,)?)?
        $(folders: [ $({ file: $file:literal, key: $key:literal, value: $value:literal }),+ $(,)? ] $(,)?)?
        $(loaders: [ $($loader:literal),+ $(,)? ] $(,)?)?
    }) => {
        $crate::export::assert_id($id);
        $crate::export::assert_plain(&[$id, $summary, $($level),+]);
        $($crate::export::assert_id($ending); $crate::export::assert_hex($magic);)?
        $($crate::export::assert_plain(&[$($file, $key, $value),+]);)?
        $($crate::export::assert_plain(&[$($loader),+]);)?
    };
}

pub use abi_stable::{
    library::{LibHeader, RootModuleResult},
    std_types::{RResult, RStr},
};

use abi_stable::{
    library::CheckTypeLayout,
    marker_type::ErasedPrefix,
    prefix_type::{PrefixRefTrait, PrefixTypeTrait},
};

use crate::abi::{PluginModule, PluginModuleRef};

/// The bytes of a text, for a static of exactly that size.
#[must_use]
pub const fn section<const N: usize>(text: &str) -> [u8; N] {
    let bytes = text.as_bytes();
    let mut section = [0; N];
    let mut i = 0;
    while i < N {
        section[i] = bytes[i];
        i += 1;
    }
    section
}

/// Refuses, at compile time, texts that would not be the content of a JSON string as they are.
pub const fn assert_plain(texts: &[&str]) {
    let mut t = 0;
    while t < texts.len() {
        let bytes = texts[t].as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            // U+0080 to U+009F are control characters too; as UTF-8 they are C2 80 to C2 9F.
            let late = bytes[i] == 0xc2 && bytes[i + 1] < 0xa0;
            assert!(
                bytes[i] >= b' ' && bytes[i] != 0x7f && !late && bytes[i] != b'"' && bytes[i] != b'\\',
                "a manifest text holds a quote, a backslash or a control character"
            );
            i += 1;
        }
        t += 1;
    }
}

/// Refuses, at compile time, an id that the host would refuse.
pub const fn assert_id(id: &str) {
    let bytes = id.as_bytes();
    assert!(!bytes.is_empty() && bytes.len() <= 64, "an id has 1 to 64 characters");
    let mut i = 0;
    while i < bytes.len() {
        assert!(
            bytes[i].is_ascii_lowercase() || bytes[i].is_ascii_digit() || bytes[i] == b'-',
            "an id is made of a-z, 0-9 and hyphens"
        );
        i += 1;
    }
}

/// Refuses, at compile time, magic bytes that are not pairs of hexadecimal digits.
pub const fn assert_hex(magic: &str) {
    let bytes = magic.as_bytes();
    assert!(bytes.len().is_multiple_of(2), "magic bytes are pairs of hexadecimal digits");
    let mut i = 0;
    while i < bytes.len() {
        assert!(bytes[i].is_ascii_hexdigit(), "magic bytes are pairs of hexadecimal digits");
        i += 1;
    }
}

/// The static that `abi_stable` looks up in a library.
#[must_use]
#[expect(unsafe_code, reason = "abi_stable's constructor takes the module's type on trust")]
pub const fn lib_header(root_module: extern "C" fn() -> RootModuleResult) -> LibHeader {
    // SAFETY: `root_module` is generated by `export_plugin!` and returns what `root_module` below makes
    // from a `PluginModule`, whose prefix reference is `PluginModuleRef`.
    unsafe { LibHeader::from_constructor::<PluginModuleRef>(root_module, CheckTypeLayout::Yes) }
}

/// Makes the root module live for ever and erases its type.
#[must_use]
#[expect(unsafe_code, reason = "abi_stable hands root modules around under an erased type")]
pub fn root_module(module: PluginModule) -> RootModuleResult {
    // SAFETY: `lib_header` tells the loader that the erased module is a `PluginModuleRef`, which it is.
    RResult::ROk(unsafe { module.leak_into_prefix().to_prefix_ref().cast::<ErasedPrefix>() })
}

#[cfg(test)]
mod tests {
    use super::{assert_id, assert_plain};

    #[test]
    fn texts_and_ids_are_held_to_what_the_host_takes() {
        assert_plain(&["", "4-bit größer, naïve → ≤ 10 %"]);
        assert_id("my-format-2");
        for bad in ["a\"b", "a\\b", "a\nb", "\u{1b}[2J", "\u{7f}", "\u{9b}"] {
            assert!(std::panic::catch_unwind(|| assert_plain(&["good", bad])).is_err(), "{bad:?}");
        }
        for bad in ["", "Half", "a_b", "a b", "größe"] {
            assert!(std::panic::catch_unwind(|| assert_id(bad)).is_err(), "{bad:?}");
        }
    }
}
