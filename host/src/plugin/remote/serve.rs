//! Carrying out the other process's calls: one function for each kind of object of the border.
#![expect(unsafe_code, reason = "leases are raw memory; outputs of a call lie side by side in one window")]

use std::{
    io,
    sync::{Arc, Weak},
};

use abi_stable::std_types::{ROption, RResult, RSlice, RSliceMut};
use qhost_plugin_api::abi::{
    DType, Failure, FilesObject, JobObject, LogLevel, PluginObject, ServiceObject, TensorView, TensorViewMut,
    UnitObject,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    peer::{Object, Peer, broken},
    proxies::{self, Mappings},
    wire::{Bytes, Connection, Request},
};
use crate::plugin::calls;

/// Serves a connection until the other process closes it.
pub(super) fn all(connection: &mut Connection, peer: &Weak<Peer>) -> io::Result<()> {
    let mappings = Mappings::default();
    while let Some(request) = connection.next()? {
        let Some(peer) = peer.upgrade() else { break };
        let used = request.outputs.iter().map(|span| span.start.saturating_add(span.length)).max().unwrap_or(0);
        let (outcome, blob) = match one(connection, &request, &peer, &mappings) {
            Ok((value, blob)) => (Ok(value), blob),
            Err(failure) => (Err(failure), None),
        };
        let blobs: Vec<_> = blob.iter().map(Given::bytes).collect();
        connection.answer(outcome, &blobs, used.next_multiple_of(64))?;
    }
    Ok(())
}

/// Bytes of an answer.
enum Given {
    Owned(Vec<u8>),
    /// Memory that is on loan: it stays valid until the loan is given back, which is another call.
    Lent(*const u8, usize),
}

impl Given {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            // SAFETY: the loan lasts at least until the other process has got the answer.
            Self::Lent(data, length) => unsafe { std::slice::from_raw_parts(*data, *length) },
        }
    }
}

type Served = Result<(Value, Option<Given>), Failure>;

fn one(connection: &mut Connection, request: &Request, peer: &Arc<Peer>, mappings: &Mappings) -> Served {
    if request.method == "drop" {
        peer.own.drop_one(request.object);
        return Ok((Value::Null, None));
    }
    let object = peer.own.get(request.object).ok_or_else(|| broken("there is no such object"))?;
    let mut carry_out = || match &*object {
        Object::Host(host) => on_host(host, request, peer),
        Object::Files(files) => on_files(files, request, peer),
        Object::Unit(unit) => on_unit(unit, request, &inputs(connection, request, mappings)?, peer),
        Object::Plugin(plugin) => on_plugin(plugin, request, peer),
        Object::Job(job) => on_job(job, request, peer),
        Object::Service(service) => on_service(service, connection, request, mappings),
    };
    match peer.own.caller {
        Some(caller) => caller.call(&request.during, carry_out),
        None => carry_out(),
    }
}

/// The bytes that a call is about.
fn inputs<'a>(connection: &'a Connection, request: &Request, mappings: &'a Mappings) -> Result<Vec<&'a [u8]>, Failure> {
    let bytes = |bytes: &Bytes| match bytes {
        Bytes::Window(span) => connection.window.bytes(*span).map_err(|error| broken(&error.to_string())),
        Bytes::File(place) => mappings.bytes(place),
    };
    request.inputs.iter().map(bytes).collect()
}

fn arguments<'a, T: Deserialize<'a>>(request: &'a Request) -> Result<T, Failure> {
    T::deserialize(&request.arguments).map_err(|error| broken(&format!("{}: {error}", request.method)))
}

fn unknown(request: &Request) -> Failure {
    broken(&format!("there is no method {}", request.method))
}

/// An answer that is an object, or none.
fn found(found: ROption<ServiceObject>, peer: &Peer) -> (Value, Option<Given>) {
    let id = found.into_option().map(|service| peer.own.hold(Object::Service(service)));
    (json!(id), None)
}

fn plain<T>(outcome: RResult<T, Failure>, value: impl FnOnce(T) -> Value) -> Served {
    Ok((value(outcome.into_result()?), None))
}

fn on_host(host: &qhost_plugin_api::abi::HostObject, request: &Request, peer: &Peer) -> Served {
    match request.method.as_str() {
        "log" => {
            let (level, target, message): (u32, &str, &str) = arguments(request)?;
            host.log(LogLevel(level), target.into(), message.into());
            Ok((Value::Null, None))
        }
        "grant" => {
            let (bytes, purpose): (u64, &str) = arguments(request)?;
            plain(host.grant(bytes, purpose.into()), |id| json!(id))
        }
        "release_grant" => {
            host.release_grant(arguments(request)?);
            Ok((Value::Null, None))
        }
        "cancelled" => Ok((json!(host.cancelled()), None)),
        "query_interface" => Ok(found(host.query_interface(arguments::<&str>(request)?.into()), peer)),
        _ => Err(unknown(request)),
    }
}

fn on_files(files: &FilesObject, request: &Request, peer: &Peer) -> Served {
    match request.method.as_str() {
        "list" => Ok((json!(files.list().as_str()), None)),
        "read" => {
            let (name, offset, length): (&str, u64, usize) = arguments(request)?;
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(length).map_err(|error| broken(&error.to_string()))?;
            bytes.resize(length, 0);
            let read = files.read(name.into(), offset, RSliceMut::from_mut_slice(&mut bytes)).into_result()?;
            bytes.truncate(usize::try_from(read).unwrap_or(usize::MAX));
            Ok((json!(read), Some(Given::Owned(bytes))))
        }
        "query_interface" => Ok(found(files.query_interface(arguments::<&str>(request)?.into()), peer)),
        _ => Err(unknown(request)),
    }
}

fn on_unit(unit: &UnitObject, request: &Request, inputs: &[&[u8]], peer: &Peer) -> Served {
    let input = || inputs.first().copied().ok_or_else(|| broken("bytes are missing"));
    match request.method.as_str() {
        "lease" => {
            let (tensor, first_row, rows): (u32, u64, u64) = arguments(request)?;
            // The name that the plugin's process tells of, should it crash.
            let (lease, name) = calls::watching(|| unit.lease(tensor, first_row, rows));
            let lease = lease.into_result()?;
            let length = usize::try_from(lease.bytes).map_err(|error| broken(&error.to_string()))?;
            let told = json!([lease.id, lease.dtype.0, lease.rows, lease.row_elements, name]);
            let given = if length == 0 { Given::Owned(Vec::new()) } else { Given::Lent(lease.data, length) };
            Ok((told, Some(given)))
        }
        "release" => {
            unit.release(arguments(request)?);
            Ok((Value::Null, None))
        }
        "write" => {
            let (segment, offset): (u32, u64) = arguments(request)?;
            plain(unit.write(segment, offset, RSlice::from_slice(input()?)), |()| Value::Null)
        }
        "metric" => {
            // JSON has no numbers that are not finite, which are no figures either.
            let (segment, key, value): (u32, &str, Option<f64>) = arguments(request)?;
            unit.metric(segment, key.into(), value.unwrap_or(f64::NAN));
            Ok((Value::Null, None))
        }
        "progress" => {
            unit.progress(arguments(request)?);
            Ok((Value::Null, None))
        }
        "save" => plain(unit.save(arguments::<&str>(request)?.into(), RSlice::from_slice(input()?)), |()| Value::Null),
        "load" => {
            let loaded = unit.load(arguments::<&str>(request)?.into()).into_result()?.into_option();
            Ok((json!(loaded.is_some()), loaded.map(|bytes| Given::Owned(bytes.into()))))
        }
        "query_interface" => Ok(found(unit.query_interface(arguments::<&str>(request)?.into()), peer)),
        _ => Err(unknown(request)),
    }
}

fn on_plugin(plugin: &PluginObject, request: &Request, peer: &Arc<Peer>) -> Served {
    match request.method.as_str() {
        "describe" => plain(plugin.describe(), |text| json!(text.as_str())),
        "open" => {
            let (request, files): (&str, u64) = arguments(request)?;
            let job = plugin.open(request.into(), proxies::files(peer, files));
            plain(job, |job| json!(peer.own.hold(Object::Job(job))))
        }
        "query_interface" => Ok(found(plugin.query_interface(arguments::<&str>(request)?.into()), peer)),
        _ => Err(unknown(request)),
    }
}

fn on_job(job: &JobObject, request: &Request, peer: &Arc<Peer>) -> Served {
    match request.method.as_str() {
        "plan" => plain(job.plan(), |text| json!(text.as_str())),
        "constant" => {
            let bytes = job.constant(arguments(request)?).into_result()?;
            Ok((Value::Null, Some(Given::Owned(bytes.into()))))
        }
        "run_unit" => {
            let (unit, io): (u32, u64) = arguments(request)?;
            plain(job.run_unit(unit, proxies::unit(peer, io)), |()| Value::Null)
        }
        "check" => plain(job.check(proxies::files(peer, arguments(request)?)), |text| json!(text.as_str())),
        "query_interface" => Ok(found(job.query_interface(arguments::<&str>(request)?.into()), peer)),
        _ => Err(unknown(request)),
    }
}

/// The dtype, rows and elements in a row of each operand.
type Shapes = Vec<(u32, u64, u64)>;

fn on_service(service: &ServiceObject, connection: &mut Connection, request: &Request, mappings: &Mappings) -> Served {
    let (method, text, of_inputs, of_outputs): (&str, &str, Shapes, Shapes) = arguments(request)?;
    let mut places = Vec::new();
    for span in &request.outputs {
        let bytes = connection.window.bytes_mut(*span).map_err(|error| broken(&error.to_string()))?;
        places.push((bytes.as_mut_ptr(), bytes.len()));
    }
    let inputs = inputs(connection, request, mappings)?;
    if (inputs.len(), places.len()) != (of_inputs.len(), of_outputs.len()) {
        return Err(broken("operands are missing"));
    }
    let views: Vec<_> = inputs
        .iter()
        .zip(of_inputs)
        .map(|(bytes, (dtype, rows, row_elements))| TensorView {
            dtype: DType(dtype),
            rows,
            row_elements,
            data: RSlice::from_slice(bytes),
        })
        .collect();
    let mut outputs: Vec<_> = places
        .iter()
        .zip(of_outputs)
        .map(|((data, length), (dtype, rows, row_elements))| TensorViewMut {
            dtype: DType(dtype),
            rows,
            row_elements,
            // SAFETY: they are pieces of the window, apart from each other and from the inputs by the protocol, and the
            // window is not mapped anew before the answer.
            data: unsafe { RSliceMut::from_raw_parts_mut(*data, *length) },
        })
        .collect();
    let answer =
        service.call(method.into(), text.into(), RSlice::from_slice(&views), RSliceMut::from_mut_slice(&mut outputs));
    let answer = answer.into_result()?;
    Ok((json!(answer.json.as_str()), Some(Given::Owned(answer.blob.into()))))
}
