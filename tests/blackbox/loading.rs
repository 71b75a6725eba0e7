//! Loading in one process, which the executable does when a run needs several plugins.

use std::path::PathBuf;

use qhost::{
    cancel::CancelFlag,
    plugin::{Catalog, LoadedPlugin, SearchPath},
    run::{DeviceChoice, Resources, connect},
};
use qhost_tests::command::{dist, test_plugin};

#[test]
fn plugins_loaded_together_are_distinct() {
    let folders: [PathBuf; 2] = [dist().join("plugins"), test_plugin("misbehave").parent().unwrap().to_owned()];
    let catalog = Catalog::search(&SearchPath { given: folders.into(), ..SearchPath::default() }).unwrap();
    let device = DeviceChoice::Cpu;
    let resources =
        Resources { threads: 1, max_memory: None, log_level: 0, cancel: CancelFlag::default(), isolate: false, device };
    let settings = connect(&resources).unwrap();
    let loaded: Vec<_> =
        catalog.ready().map(|(found, manifest)| LoadedPlugin::load(found, manifest, &settings).unwrap()).collect();
    assert!(loaded.len() >= 4, "{:?}", catalog.found);
    // The loader's own cache would give the first plugin's functions for every other.
    for plugin in &loaded {
        let described: Vec<_> = plugin.describe().unwrap().formats.into_iter().map(|format| format.id).collect();
        let promised: Vec<_> = plugin.manifest.formats.iter().map(|format| format.id.clone()).collect();
        assert_eq!(described, promised, "{}", plugin.path.display());
    }
}
