//! The service `compute/1`: matrices by handles, and operations on them, on the CPU.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use qhost_compute::{Cpu, Device, Dtype, Error, Stored};
use qhost_plugin_api::{
    abi::{DType, Failure, FailureKind},
    documents::{BatchRequest, MatrixHandle, MatrixRequest, Operation},
    sdk::{FormatService, Operand, OperandMut, ServiceAnswer},
};
use rayon::ThreadPool;
use serde::de::DeserializeOwned;

use crate::stream::{Grant, Ledger};

/// Computes for plugins.
pub(super) struct Arithmetic {
    cpu: Cpu,
    pool: Arc<ThreadPool>,
    ledger: Arc<Ledger>,
    matrices: Mutex<Matrices>,
}

#[derive(Default)]
struct Matrices {
    next: u64,
    by_handle: HashMap<MatrixHandle, Matrix>,
}

struct Matrix {
    rows: usize,
    columns: usize,
    numbers: Numbers,
    _memory: Grant,
}

enum Numbers {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Arithmetic {
    /// Arithmetic on these threads, with memory from the ledger.
    pub(super) fn new(pool: Arc<ThreadPool>, ledger: Arc<Ledger>) -> Self {
        Self { cpu: Cpu::new(), pool, ledger, matrices: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Matrices> {
        self.matrices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, request: MatrixRequest, numbers: Option<&[u8]>) -> Result<MatrixHandle, Failure> {
        let shape = |size: u64| usize::try_from(size).map_err(|_| misused("a matrix that no memory holds"));
        let (rows, columns) = (shape(request.rows)?, shape(request.columns)?);
        let element = if request.double { 8 } else { 4 };
        let count = rows.checked_mul(columns).filter(|count| count.checked_mul(element).is_some());
        let count = count.ok_or_else(|| misused("a matrix that no memory holds"))?;
        if numbers.is_some_and(|bytes| bytes.len() != count * element) {
            return Err(misused("numbers that do not fill the matrix"));
        }
        let memory = self.ledger.hold((count * element) as u64, "a matrix").map_err(|refused| {
            Failure::new(FailureKind::RESOURCES, refused.to_string()).hint("raise --max-memory, or use fewer --threads")
        })?;
        let numbers = match (request.double, numbers) {
            (false, None) => Numbers::Single(vec![0.0; count]),
            (true, None) => Numbers::Double(vec![0.0; count]),
            (false, Some(bytes)) => {
                Numbers::Single(bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
            }
            (true, Some(bytes)) => {
                Numbers::Double(bytes.as_chunks::<8>().0.iter().map(|raw| f64::from_le_bytes(*raw)).collect())
            }
        };
        let mut matrices = self.lock();
        matrices.next += 1;
        let handle = MatrixHandle(matrices.next);
        matrices.by_handle.insert(handle, Matrix { rows, columns, numbers, _memory: memory });
        Ok(handle)
    }

    fn download(&self, handle: MatrixHandle, out: &mut OperandMut<'_>) -> Result<(), Failure> {
        let matrices = self.lock();
        let matrix = matrices.get(handle)?;
        let fill = |bytes: &[u8], dtype: DType, out: &mut OperandMut<'_>| {
            if out.dtype != dtype || out.data.len() != bytes.len() {
                return Err(misused("a place of another size or precision than the matrix"));
            }
            out.data.copy_from_slice(bytes);
            Ok(())
        };
        match &matrix.numbers {
            Numbers::Single(numbers) => fill(bytemuck::cast_slice(numbers), DType::F32, out),
            Numbers::Double(numbers) => fill(bytemuck::cast_slice(numbers), DType::F64, out),
        }
    }

    fn apply(&self, matrices: &mut Matrices, operation: &Operation) -> Result<(), Failure> {
        match *operation {
            Operation::Product { a, b, transposed, factor, out } => {
                self.product(matrices, [a, b, out], transposed, factor)
            }
            Operation::Gram { x, out } => {
                let mut sum = matrices.take(out)?;
                let outcome = matrices.get(x).and_then(|x| self.gram(x, &mut sum));
                matrices.by_handle.insert(out, sum);
                outcome
            }
            Operation::Cholesky { a } => matrices.square(a, |numbers, order| self.cpu.cholesky(numbers, order)),
            Operation::Inverse { a } => matrices.square(a, |numbers, order| self.cpu.inverse(numbers, order)),
            Operation::InverseFactor { a } => {
                matrices.square(a, |numbers, order| self.cpu.inverse_factor(numbers, order))
            }
            Operation::SolveLower { l, transposed, right } => {
                let mut solution = matrices.take(right)?;
                let outcome = matrices.get(l).and_then(|l| {
                    let (rows, width) = (solution.rows, solution.columns);
                    let (Numbers::Double(factor), Numbers::Double(numbers)) = (&l.numbers, &mut solution.numbers)
                    else {
                        return Err(misused("single precision where double is needed"));
                    };
                    self.cpu.solve_lower(factor, rows, transposed, numbers, width).map_err(|error| failed(&error))
                });
                matrices.by_handle.insert(right, solution);
                outcome
            }
            Operation::Convert { from, to } => {
                let mut target = matrices.take(to)?;
                let outcome = matrices.get(from).and_then(|from| convert(from, &mut target));
                matrices.by_handle.insert(to, target);
                outcome
            }
            Operation::Add { y, factor, x } => {
                let mut sum = matrices.take(y)?;
                let outcome = matrices.get(x).and_then(|x| self.add(&mut sum, factor, x));
                matrices.by_handle.insert(y, sum);
                outcome
            }
            Operation::Scale { a, factor } => {
                match &mut matrices.get_mut(a)?.numbers {
                    #[expect(clippy::cast_possible_truncation, reason = "the matrix is in f32")]
                    Numbers::Single(numbers) => {
                        self.cpu.scale(numbers, factor as f32).map_err(|error| failed(&error))?;
                    }
                    Numbers::Double(numbers) => numbers.iter_mut().for_each(|number| *number *= factor),
                }
                Ok(())
            }
            Operation::AddToDiagonal { a, number } => {
                let matrix = matrices.get_mut(a)?;
                let step = matrix.columns + 1;
                match &mut matrix.numbers {
                    #[expect(clippy::cast_possible_truncation, reason = "the matrix is in f32")]
                    Numbers::Single(numbers) => {
                        numbers.iter_mut().step_by(step).for_each(|diagonal| *diagonal += number as f32);
                    }
                    Numbers::Double(numbers) => {
                        numbers.iter_mut().step_by(step).for_each(|diagonal| *diagonal += number);
                    }
                }
                Ok(())
            }
            _ => Err(Failure::unsupported("an operation that this host does not know")),
        }
    }

    fn product(
        &self,
        matrices: &mut Matrices,
        [a, b, out]: [MatrixHandle; 3],
        transposed: bool,
        factor: f32,
    ) -> Result<(), Failure> {
        let mut sum = matrices.take(out)?;
        let mut compute = || {
            let (a, b) = (matrices.get(a)?, matrices.get(b)?);
            let (inputs, outputs) = if transposed { (b.columns, b.rows) } else { (b.rows, b.columns) };
            let (Numbers::Single(x), Numbers::Single(w), Numbers::Single(sum_numbers)) =
                (&a.numbers, &b.numbers, &mut sum.numbers)
            else {
                return Err(misused("a product in double precision"));
            };
            if a.columns != inputs || (sum.rows, sum.columns) != (a.rows, outputs) {
                return Err(misused("factors and product whose shapes do not fit"));
            }
            // What the kernels call transposed is the usual order of a product.
            let stored =
                Stored { bytes: bytemuck::cast_slice(w), dtype: Dtype::F32, outputs, inputs, transposed: !transposed };
            let matrix = self.cpu.matrix(stored).map_err(|error| failed(&error))?;
            let product = self.cpu.linear(x, a.rows, &matrix, None).map_err(|error| failed(&error))?;
            self.cpu.add(sum_numbers, factor, &product).map_err(|error| failed(&error))
        };
        let outcome = compute();
        matrices.by_handle.insert(out, sum);
        outcome
    }

    fn gram(&self, x: &Matrix, sum: &mut Matrix) -> Result<(), Failure> {
        let Numbers::Single(rows) = &x.numbers else { return Err(misused("a Gram matrix of double precision")) };
        if (sum.rows, sum.columns) != (x.columns, x.columns) {
            return Err(misused("a Gram matrix of another width"));
        }
        let outcome = match &mut sum.numbers {
            Numbers::Single(gram) => self.cpu.gram(rows, x.columns, gram),
            Numbers::Double(gram) => self.cpu.gram_f64(rows, x.columns, gram),
        };
        outcome.map_err(|error| failed(&error))
    }

    fn add(&self, sum: &mut Matrix, factor: f64, x: &Matrix) -> Result<(), Failure> {
        if (sum.rows, sum.columns) != (x.rows, x.columns) {
            return Err(misused("a sum of different shapes"));
        }
        match (&mut sum.numbers, &x.numbers) {
            #[expect(clippy::cast_possible_truncation, reason = "the matrices are in f32")]
            (Numbers::Single(y), Numbers::Single(x)) => {
                self.cpu.add(y, factor as f32, x).map_err(|error| failed(&error))
            }
            (Numbers::Double(y), Numbers::Double(x)) => {
                y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
                Ok(())
            }
            _ => Err(misused("a sum of different precisions")),
        }
    }
}

fn convert(from: &Matrix, to: &mut Matrix) -> Result<(), Failure> {
    if (from.rows, from.columns) != (to.rows, to.columns) {
        return Err(misused("a copy of another shape"));
    }
    match (&from.numbers, &mut to.numbers) {
        (Numbers::Single(from), Numbers::Single(to)) => to.copy_from_slice(from),
        (Numbers::Double(from), Numbers::Double(to)) => to.copy_from_slice(from),
        (Numbers::Single(from), Numbers::Double(to)) => {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = f64::from(*from));
        }
        #[expect(clippy::cast_possible_truncation, reason = "that is what is asked for")]
        (Numbers::Double(from), Numbers::Single(to)) => {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from as f32);
        }
    }
    Ok(())
}

impl Matrices {
    fn get(&self, handle: MatrixHandle) -> Result<&Matrix, Failure> {
        self.by_handle.get(&handle).ok_or_else(|| misused("a matrix that is not there, or that is its own operand"))
    }

    fn get_mut(&mut self, handle: MatrixHandle) -> Result<&mut Matrix, Failure> {
        self.by_handle.get_mut(&handle).ok_or_else(|| misused("a matrix that is not there"))
    }

    fn take(&mut self, handle: MatrixHandle) -> Result<Matrix, Failure> {
        self.by_handle.remove(&handle).ok_or_else(|| misused("a matrix that is not there"))
    }

    fn square(
        &mut self,
        handle: MatrixHandle,
        operation: impl FnOnce(&mut [f64], usize) -> Result<(), Error>,
    ) -> Result<(), Failure> {
        let matrix = self.get_mut(handle)?;
        match &mut matrix.numbers {
            Numbers::Double(numbers) => operation(numbers, matrix.rows).map_err(|error| failed(&error)),
            Numbers::Single(_) => Err(misused("single precision where double is needed")),
        }
    }
}

impl FormatService for Arithmetic {
    fn call(
        &self,
        method: &str,
        request: &str,
        inputs: &[Operand<'_>],
        outputs: &mut [OperandMut<'_>],
    ) -> Result<ServiceAnswer, Failure> {
        match (method, inputs, outputs) {
            ("zeros", [], []) => ServiceAnswer::new(&self.insert(parsed(request)?, None)?),
            ("upload", [numbers], []) => ServiceAnswer::new(&self.insert(parsed(request)?, Some(numbers.data))?),
            ("download", [], [out]) => {
                self.download(parsed(request)?, out)?;
                ServiceAnswer::new(&())
            }
            ("free", [], []) => {
                let handle: MatrixHandle = parsed(request)?;
                self.lock().by_handle.remove(&handle);
                ServiceAnswer::new(&())
            }
            ("batch", [], []) => {
                let request: BatchRequest = parsed(request)?;
                self.pool.install(|| {
                    let mut matrices = self.lock();
                    request.operations.iter().try_for_each(|operation| self.apply(&mut matrices, operation))
                })?;
                ServiceAnswer::new(&())
            }
            ("kernel", ..) => Err(Failure::unsupported("this host computes on the CPU and runs no kernels of plugins")),
            ("zeros" | "upload" | "download" | "free" | "batch", ..) => {
                Err(misused("operands that the method does not take"))
            }
            _ => Err(Failure::unsupported(format!("there is no method `{method}`"))),
        }
    }
}

fn parsed<T: DeserializeOwned>(request: &str) -> Result<T, Failure> {
    serde_json::from_str(request).map_err(|error| misused(&format!("not the request expected: {error}")))
}

fn misused(what: &str) -> Failure {
    super::sources::broken(what)
}

fn failed(error: &Error) -> Failure {
    let kind = match error {
        Error::NotPositiveDefinite { .. } => FailureKind::CORRUPT,
        Error::Shape { .. } => FailureKind::PLUGIN,
        _ => FailureKind::INTERNAL,
    };
    Failure::new(kind, error.to_string())
}

#[cfg(test)]
mod tests {
    use rayon::ThreadPoolBuilder;
    use serde_json::json;

    use super::*;

    fn arithmetic(limit: Option<u64>) -> Arithmetic {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        Arithmetic::new(Arc::new(pool), Arc::new(Ledger::new(limit)))
    }

    fn upload(service: &Arithmetic, rows: u64, columns: u64, numbers: &[f64], double: bool) -> MatrixHandle {
        #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
        let data: Vec<u8> = if double {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        } else {
            numbers.iter().flat_map(|number| (*number as f32).to_le_bytes()).collect()
        };
        let dtype = if double { DType::F64 } else { DType::F32 };
        let request = json!({"rows": rows, "columns": columns, "double": double}).to_string();
        let operand = Operand { dtype, rows, row_elements: columns, data: &data };
        service.call("upload", &request, &[operand], &mut []).unwrap().value().unwrap()
    }

    fn download(service: &Arithmetic, handle: MatrixHandle, count: u64) -> Vec<f64> {
        let mut data = vec![0; usize::try_from(count).unwrap() * 8];
        let out = OperandMut { dtype: DType::F64, rows: 1, row_elements: count, data: &mut data };
        service.call("download", &json!(handle).to_string(), &[], &mut [out]).unwrap();
        data.as_chunks::<8>().0.iter().map(|raw| f64::from_le_bytes(*raw)).collect()
    }

    fn batch(service: &Arithmetic, operations: Vec<Operation>) -> Result<(), Failure> {
        let request = serde_json::to_string(&BatchRequest::new(operations)).unwrap();
        service.call("batch", &request, &[], &mut []).map(drop)
    }

    #[test]
    fn the_factor_of_an_inverse_comes_out_of_one_batch() {
        let service = arithmetic(None);
        let x = upload(&service, 3, 2, &[1.0, 2.0, 3.0, 4.0, 5.0, 7.0], false);
        let gram = upload(&service, 2, 2, &[0.0; 4], true);
        let copy = upload(&service, 2, 2, &[0.0; 4], true);
        batch(
            &service,
            vec![
                Operation::Gram { x, out: gram },
                Operation::AddToDiagonal { a: gram, number: 1.0 },
                Operation::Convert { from: gram, to: copy },
                Operation::InverseFactor { a: copy },
            ],
        )
        .unwrap();
        // XᵀX + 1 = [[36, 49], [49, 70]], of which the lower triangle is there.
        let sums = download(&service, gram, 4);
        assert_eq!((sums[0], sums[2], sums[3]), (36.0, 49.0, 70.0));
        // Uᵀ U is its inverse, [[70, −49], [−49, 36]] / 119.
        let u = download(&service, copy, 4);
        let inverse = [u[0] * u[0], u[0] * u[1], u[1] * u[1] + u[3] * u[3]];
        for (actual, expected) in inverse.into_iter().zip([70.0 / 119.0, -49.0 / 119.0, 36.0 / 119.0]) {
            assert!((actual - expected).abs() < 1e-12, "{actual} {expected}");
        }
        assert!(u[2].abs() < 1e-15);
    }

    #[test]
    fn products_add_to_what_is_there() {
        let service = arithmetic(None);
        let a = upload(&service, 1, 2, &[1.0, 2.0], false);
        let b = upload(&service, 2, 2, &[3.0, 4.0, 5.0, 6.0], false);
        let out = upload(&service, 1, 2, &[1.0, 1.0], false);
        let double = upload(&service, 1, 2, &[0.0; 2], true);
        let product = |transposed| Operation::Product { a, b, transposed, factor: -1.0, out };
        batch(&service, vec![product(false), Operation::Convert { from: out, to: double }]).unwrap();
        assert_eq!(download(&service, double, 2), [1.0 - 13.0, 1.0 - 16.0]);
        batch(&service, vec![product(true), Operation::Convert { from: out, to: double }]).unwrap();
        assert_eq!(download(&service, double, 2), [1.0 - 13.0 - 11.0, 1.0 - 16.0 - 17.0]);
    }

    #[test]
    fn what_is_not_positive_definite_and_what_does_not_fit_are_failures_and_lose_nothing() {
        let service = arithmetic(None);
        let a = upload(&service, 2, 2, &[1.0, 0.0, 2.0, 1.0], true);
        assert_eq!(batch(&service, vec![Operation::Cholesky { a }]).unwrap_err().kind, FailureKind::CORRUPT);
        let x = upload(&service, 1, 3, &[1.0; 3], false);
        assert_eq!(batch(&service, vec![Operation::Gram { x, out: a }]).unwrap_err().kind, FailureKind::PLUGIN);
        let twice = Operation::Add { y: a, factor: 1.0, x: a };
        assert_eq!(batch(&service, vec![twice]).unwrap_err().kind, FailureKind::PLUGIN);
        assert_eq!(download(&service, a, 4).len(), 4);
        let kernel = service.call("kernel", "{}", &[], &mut []).unwrap_err();
        assert_eq!(kernel.kind, FailureKind::UNSUPPORTED);
    }

    #[test]
    fn matrices_are_counted_and_given_back() {
        let service = arithmetic(Some(100));
        let a = upload(&service, 2, 4, &[0.0; 8], true);
        let request = json!({"rows": 10, "columns": 1, "double": false}).to_string();
        assert_eq!(service.call("zeros", &request, &[], &mut []).unwrap_err().kind, FailureKind::RESOURCES);
        service.call("free", &json!(a).to_string(), &[], &mut []).unwrap();
        service.call("zeros", &request, &[], &mut []).unwrap();
    }
}
