//! The plugins that may be on a way between two formats, loaded.

use std::collections::BTreeSet;

use qhost_plugin_api::documents::{Encoding, EncodingPattern, Manifest};

use super::Edge;
use crate::plugin::{Catalog, ConnectSettings, Error, Found, LoadedPlugin, Transcoder};

/// What plugins make of encodings on a way.
#[derive(Default)]
pub struct Transcoders {
    /// What each of them does, by its index.
    pub edges: Vec<Edge>,
    /// Who does it.
    pub by: Vec<Transcoder>,
    // A transcoder is its plugin's.
    plugins: Vec<LoadedPlugin>,
}

impl Transcoders {
    /// Loads those plugins of the catalog that may be on a way from what is given to what is taken, by the kinds that their
    /// manifests tell.
    ///
    /// # Errors
    /// Fails when one of them cannot be loaded, or does not do what it says.
    pub fn load(
        given: &[Vec<Encoding>],
        takes: &[EncodingPattern],
        catalog: &Catalog,
        settings: &ConnectSettings,
    ) -> Result<Self, Error> {
        let given: BTreeSet<&str> = given.iter().flatten().map(|encoding| encoding.kind.as_str()).collect();
        let taken: BTreeSet<&str> = takes.iter().map(|pattern| pattern.kind.as_str()).collect();
        let mut made = Self::default();
        for (found, manifest) in on_a_way(catalog, given, taken) {
            let plugin = LoadedPlugin::load(found, manifest, settings)?;
            let by = made.by.len();
            made.edges.extend(plugin.describe()?.transcodes.into_iter().map(|transcoding| Edge { by, transcoding }));
            made.by.push(plugin.transcoder()?);
            made.plugins.push(plugin);
        }
        Ok(made)
    }
}

/// The plugins with a transcoding that can be reached, and from which the target can.
fn on_a_way<'a>(catalog: &'a Catalog, given: BTreeSet<&str>, taken: BTreeSet<&str>) -> Vec<(&'a Found, &'a Manifest)> {
    let steps: Vec<(&str, &str)> = catalog
        .ready()
        .flat_map(|(_, manifest)| &manifest.transcodes)
        .map(|step| (step.from.as_str(), step.to.as_str()))
        .collect();
    let forwards = closed(given, &steps);
    let turned: Vec<_> = steps.iter().map(|(from, to)| (*to, *from)).collect();
    let backwards = closed(taken, &turned);
    let useful = |manifest: &Manifest| {
        let useful = |from: &str, to: &str| forwards.contains(from) && backwards.contains(to);
        manifest.transcodes.iter().any(|step| useful(&step.from, &step.to))
    };
    catalog.ready().filter(|(_, manifest)| useful(manifest)).collect()
}

/// All kinds that steps lead to from some.
fn closed<'a>(mut kinds: BTreeSet<&'a str>, steps: &[(&'a str, &'a str)]) -> BTreeSet<&'a str> {
    loop {
        let before = kinds.len();
        kinds.extend(steps.iter().filter(|(from, _)| kinds.contains(from)).map(|(_, to)| *to).collect::<Vec<_>>());
        if kinds.len() == before {
            return kinds;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::closed;

    #[test]
    fn kinds_are_followed_as_far_as_they_lead() {
        let steps = [("b", "c"), ("a", "b"), ("c", "a"), ("x", "y")];
        assert_eq!(closed(["a"].into(), &steps).into_iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(closed(["y"].into(), &steps).into_iter().collect::<Vec<_>>(), ["y"]);
    }
}
