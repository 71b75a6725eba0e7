//! The root module: the two functions that a plugin library exports.
//!
//! It knows nothing of what the plugin does.

use abi_stable::{
    StableAbi,
    library::RootModule,
    sabi_types::VersionStrings,
    std_types::{RResult, RStr},
};

use super::{ABI_VERSION, Failure, HostObject, PluginObject};

/// The functions of a plugin library, found through the symbol that `abi_stable` looks for.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    /// The manifest's JSON, the same bytes as in the library's manifest section.
    pub manifest: extern "C" fn() -> RStr<'static>,
    /// Starts the plugin. `facts` is a [`HostFacts`](crate::documents::HostFacts) in JSON.
    #[sabi(last_prefix_field)]
    pub connect: extern "C" fn(host: HostObject, facts: RStr<'_>) -> RResult<PluginObject, Failure>,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "qhost_plugin";
    const NAME: &'static str = "qhost_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new(ABI_VERSION);
}
