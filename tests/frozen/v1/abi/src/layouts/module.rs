//! The root module: the two functions that a plugin library exports.
//!
//! It knows nothing of what the plugin does.

use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_types::VersionStrings,
    std_types::{RResult, RStr},
};

use super::{Failure, HostObject, PluginObject};

/// Version of the frozen layouts in this folder; never the package's version.
pub const ABI_VERSION: &str = "1.0.0";

/// The functions of a plugin library, found through the symbol that `abi_stable` looks for.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    /// The manifest's JSON, the same bytes as in the library's manifest section.
    pub manifest: extern "C" fn() -> RStr<'static>,
    /// Starts the plugin. `facts` is a `HostFacts` document.
    ///
    /// Called once in a process: a plugin may keep the host in its statics, as the SDK does for logs.
    #[sabi(last_prefix_field)]
    pub connect: extern "C" fn(host: HostObject, facts: RStr<'_>) -> RResult<PluginObject, Failure>,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "qhost_plugin";
    const NAME: &'static str = "qhost_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new(ABI_VERSION);
}
