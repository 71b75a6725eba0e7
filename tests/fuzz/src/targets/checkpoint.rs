//! Checkpoints: headers of weight files, the index over them, and the config.

use std::{collections::BTreeSet, path::PathBuf};

use qhost::{
    model,
    source::{self, Checkpoint, StoredTensor},
};
use qhost_folder::Folder;
use qhost_plugin_api::{
    documents::{Document, OpenRequest, Options},
    sdk::FileView,
};
use serde_json::Value;

use super::with_files;
use crate::{Form, Read, Target, seeds};

/// Headers of safetensors files: the host's reader and that of plugins have to tell the same.
pub const SAFETENSORS: Target = Target {
    name: "safetensors",
    form: Form::Weights,
    read: safetensors,
    seeds: seeds::safetensors,
    memory: 1 << 20,
    memory_per_byte: 100,
    changes: 1500,
};

fn safetensors(bytes: &[u8]) -> Read {
    let name = "x.safetensors";
    let host = with_files(&[(name, bytes)], |folder| source::look(&folder.join(name)));
    let plugin = Folder::read(&[FileView { name, bytes }]);
    match host {
        Ok(checkpoint) if checkpoint.tensors.is_empty() => {
            assert!(plugin.is_err(), "plugins want a tensor");
            Read::Whole
        }
        Ok(checkpoint) => {
            let plugin = plugin.as_ref().map(Folder::tensors).unwrap_or_default();
            assert_eq!(plugin.len(), checkpoint.tensors.len(), "both have the same tensors");
            for (one, other) in plugin.iter().zip(&checkpoint.tensors) {
                assert!(one.offset + one.bytes <= bytes.len() as u64, "{one:?} ends outside of the file");
                let place = |tensor: &StoredTensor| (tensor.name.clone(), tensor.shape.clone(), tensor.offset);
                assert_eq!((one.name.clone(), one.shape.clone(), one.offset), place(other));
                assert_eq!((&one.dtype, one.bytes), (&other.dtype, other.bytes));
            }
            Read::Whole
        }
        Err(error) => {
            assert!(plugin.is_err(), "a plugin reads what the host refuses: {error}");
            Read::Refused
        }
    }
}

/// The index over two weight files, which are there.
pub const INDEX: Target = Target {
    name: "index",
    form: Form::Files,
    read: index,
    seeds: seeds::index,
    memory: 1 << 20,
    memory_per_byte: 200,
    changes: 1500,
};

fn index(bytes: &[u8]) -> Read {
    let (one, two) = seeds::shards();
    let name = "model.safetensors.index.json";
    let files = [("config.json", &b"{}"[..]), ("a.safetensors", &one), ("b.safetensors", &two), (name, bytes)];
    let opened = with_files(&files, source::open);
    let views = files.map(|(name, bytes)| FileView { name, bytes });
    let _ = Folder::read(&views);
    match opened {
        Ok(checkpoint) => {
            let there: BTreeSet<&str> = checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            assert!(there.len() == checkpoint.tensors.len() && there.len() <= 4, "{there:?}");
            Read::Whole
        }
        Err(_) => Read::Refused,
    }
}

/// The config of a model: the model that it implies has to be understood as a checkpoint too.
pub const CONFIG: Target = Target {
    name: "config",
    form: Form::Files,
    read: config,
    seeds: seeds::configs,
    // Every layer and every tensor is listed, and there may be as many as the host takes for possible.
    memory: 256 << 20,
    memory_per_byte: 500,
    changes: 1500,
};

fn config(bytes: &[u8]) -> Read {
    let Ok(config) = serde_json::from_slice::<Value>(bytes) else { return Read::Refused };
    let Ok(model) = model::expected("m", &config, &|_, _| true) else { return Read::Refused };
    let request = OpenRequest::new("f", Options::default(), model.clone());
    let arrived = request.to_json().and_then(|text| OpenRequest::from_json(&text));
    assert!(arrived.is_ok(), "a plugin cannot read it: {arrived:?}");
    let stored = model.tensors.iter().map(|tensor| StoredTensor {
        name: tensor.name.clone(),
        shard: 0,
        dtype: tensor.dtype.clone(),
        shape: tensor.shape.clone(),
        offset: 0,
        bytes: 0,
    });
    let mut checkpoint = Checkpoint {
        root: PathBuf::new(),
        name: "m".into(),
        config,
        shards: Vec::new(),
        tensors: stored.collect(),
        companions: Vec::new(),
        warnings: Vec::new(),
    };
    let understood = model::understand(&checkpoint);
    if let Ok(understood) = &understood {
        assert_eq!(understood.model.tensors.len(), model.tensors.len(), "every tensor that is implied is taken");
    }
    // A tensor that nobody takes, unless it serves the prediction of further tokens.
    let name = "model.layers.77.odd".to_owned();
    checkpoint.tensors.push(StoredTensor { name, shard: 0, dtype: "F32".into(), shape: vec![1], offset: 0, bytes: 4 });
    let with_more = model::understand(&checkpoint);
    assert!(understood.is_ok() || with_more.is_err(), "one tensor more makes nothing sound");
    if understood.is_ok() { Read::Whole } else { Read::Refused }
}
