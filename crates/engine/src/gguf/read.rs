//! The layout of the header: magic, version, counts, key-value pairs, tensor descriptions.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use super::GgufError;

/// A value of the header, as far as anybody asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Any non-negative integer.
    Number(u64),
    /// An array of integers.
    Numbers(Vec<u64>),
    /// A text of reasonable length.
    Text(String),
    /// A number of 32 bits with a point.
    Real(f32),
    /// How long an array is.
    Length(u64),
    /// Something else.
    Other,
}

#[derive(Debug)]
pub(super) struct Header {
    pub(super) values: HashMap<String, Value>,
    /// Bytes of all tensors.
    pub(super) tensor_bytes: u64,
    /// Bytes of a tensor that is held in memory twice.
    pub(super) twice_bytes: u64,
    pub(super) tensors: Vec<Tensor>,
    /// Bytes a whole file has at least.
    pub(super) end: u64,
}

/// Counts above this are a broken header: real models have hundreds of values and some thousand tensors.
const MOST_ENTRIES: u64 = 1 << 20;
/// Texts above this are not kept.
const LONGEST_TEXT: u64 = 4096;
/// Integer arrays above this are not kept: no model has more layers.
const LONGEST_NUMBERS: u64 = 4096;

pub(super) fn header(input: &mut impl BufRead, file_bytes: u64) -> Result<Header, GgufError> {
    let mut input = Input { inner: input, position: 0, end: file_bytes };
    if &input.bytes::<4>()? != b"GGUF" {
        return Err(GgufError::NotGguf);
    }
    let version = input.u32()?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version(version));
    }
    let (tensors, count) = (input.u64()?, input.u64()?);
    if tensors > MOST_ENTRIES || count > MOST_ENTRIES {
        return Err(GgufError::Broken(format!("it announces {tensors} tensors and {count} values")));
    }
    let mut values = HashMap::new();
    for _ in 0..count {
        let key = input.text()?.unwrap_or_default();
        let kind = input.u32()?;
        let value = input.value(kind)?;
        values.insert(key, value);
    }
    let (mut tensor_bytes, mut data_end) = (0u64, 0u64);
    let (mut twice_bytes, mut has_last) = (0, false);
    let mut all = Vec::new();
    for _ in 0..tensors {
        let tensor = input.tensor()?;
        tensor_bytes = tensor_bytes.saturating_add(tensor.bytes);
        data_end = data_end.max(tensor.end);
        match tensor.name.as_str() {
            FIRST_STEP if is_reordered(tensor.kind) => twice_bytes = tensor.bytes,
            LAST_STEP => has_last = true,
            _ => {}
        }
        all.push(tensor);
    }
    if has_last {
        twice_bytes = 0;
    }
    let alignment = match values.get("general.alignment") {
        Some(Value::Number(n @ 1..=65536)) => *n,
        _ => 32,
    };
    let end = match tensors {
        0 => input.position,
        _ => input.position.next_multiple_of(alignment).saturating_add(data_end),
    };
    Ok(Header { values, tensor_bytes, twice_bytes, tensors: all, end })
}

/// The tensor that turns tokens into numbers; without a tensor for the last step it also turns numbers into tokens.
const FIRST_STEP: &str = "token_embd.weight";
const LAST_STEP: &str = "output.weight";

/// What the header says of a tensor.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Its type.
    pub(super) kind: u32,
    /// Numbers in each of its dimensions, the one whose numbers lie side by side first.
    pub(super) sizes: Vec<u64>,
    bytes: u64,
    /// Where it ends within the data.
    end: u64,
}

/// Whether ggml multiplies by tensors of this type in an order of its own on this kind of processor, and so holds a copy
/// of one that is also read as it is; from ggml's `repack.cpp`.
fn is_reordered(kind: u32) -> bool {
    let everywhere = matches!(kind, 2 | 12 | 20 | 39); // Q4_0, Q4_K, IQ4_NL, MXFP4
    everywhere || (cfg!(target_arch = "aarch64") && matches!(kind, 8 | 13 | 14)) // Q8_0, Q5_K, Q6_K
}

struct Input<'a, R> {
    inner: &'a mut R,
    position: u64,
    end: u64,
}

impl<R: BufRead> Input<'_, R> {
    fn claim(&mut self, bytes: u64) -> Result<(), GgufError> {
        let needed = self.position.saturating_add(bytes);
        if needed > self.end {
            return Err(GgufError::Short { needed, actual: self.end });
        }
        self.position = needed;
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.claim(bytes)?;
        std::io::copy(&mut self.inner.by_ref().take(bytes), &mut std::io::sink())?;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// None for a text nobody wants to hold in memory.
    fn text(&mut self) -> Result<Option<String>, GgufError> {
        let length = self.u64()?;
        if length > LONGEST_TEXT {
            self.skip(length)?;
            return Ok(None);
        }
        self.claim(length)?;
        let mut bytes = vec![0; length as usize];
        self.inner.read_exact(&mut bytes)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        Ok(match kind {
            6 => Value::Real(f32::from_le_bytes(self.bytes()?)),
            8 => self.text()?.map_or(Value::Other, Value::Text),
            9 => self.array()?,
            _ => self.scalar(kind)?.map_or(Value::Other, Value::Number),
        })
    }

    /// None for numbers that are no non-negative integers.
    fn scalar(&mut self, kind: u32) -> Result<Option<u64>, GgufError> {
        Ok(match kind {
            0 | 7 => Some(u64::from(self.bytes::<1>()?[0])),
            1 => i8::from_le_bytes(self.bytes()?).try_into().ok(),
            2 => Some(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => i16::from_le_bytes(self.bytes()?).try_into().ok(),
            4 => Some(u64::from(self.u32()?)),
            5 => i32::from_le_bytes(self.bytes()?).try_into().ok(),
            10 => Some(self.u64()?),
            11 => i64::from_le_bytes(self.bytes()?).try_into().ok(),
            6 => self.skip(4).map(|()| None)?,
            12 => self.skip(8).map(|()| None)?,
            _ => return Err(GgufError::Broken(format!("a value has the unknown type {kind}"))),
        })
    }

    fn array(&mut self) -> Result<Value, GgufError> {
        let (kind, length) = (self.u32()?, self.u64()?);
        match kind {
            9 => return Err(GgufError::Broken("an array holds arrays".to_owned())),
            8 => {
                for _ in 0..length {
                    let bytes = self.u64()?;
                    self.skip(bytes)?;
                }
            }
            0..=5 | 7 | 10 | 11 if length <= LONGEST_NUMBERS => {
                let mut numbers = Vec::with_capacity(length as usize);
                for _ in 0..length {
                    numbers.push(self.scalar(kind)?.unwrap_or(0));
                }
                return Ok(Value::Numbers(numbers));
            }
            _ => {
                let width = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    10..=12 => 8,
                    _ => return Err(GgufError::Broken(format!("an array has the unknown type {kind}"))),
                };
                self.skip(length.saturating_mul(width))?;
            }
        }
        Ok(Value::Length(length))
    }

    fn tensor(&mut self) -> Result<Tensor, GgufError> {
        let name = self.text()?.unwrap_or_default();
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(GgufError::Broken(format!("tensor `{name}` has {dimensions} dimensions")));
        }
        let sizes = (0..dimensions).map(|_| self.u64()).collect::<Result<Vec<_>, _>>()?;
        let elements = sizes.iter().fold(1u64, |all, size| all.saturating_mul(*size));
        let kind = self.u32()?;
        let offset = self.u64()?;
        let (block, bytes) =
            block(kind).ok_or_else(|| GgufError::Broken(format!("tensor `{name}` has the unknown type {kind}")))?;
        let bytes = elements.div_ceil(block).saturating_mul(bytes);
        Ok(Tensor { name, kind, sizes, bytes, end: offset.saturating_add(bytes) })
    }
}

/// Numbers in a block of a tensor type, and bytes of the block; from ggml's table of types.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),      // F32, I32
        1 | 25 | 30 => (1, 2), // F16, I16, BF16
        2 | 20 => (32, 18),    // Q4_0, IQ4_NL
        3 => (32, 20),         // Q4_1
        6 => (32, 22),         // Q5_0
        7 => (32, 24),         // Q5_1
        8 => (32, 34),         // Q8_0
        9 => (32, 36),         // Q8_1
        10 => (256, 84),       // Q2_K
        11 | 21 => (256, 110), // Q3_K, IQ3_S
        12 => (256, 144),      // Q4_K
        13 => (256, 176),      // Q5_K
        14 => (256, 210),      // Q6_K
        15 => (256, 292),      // Q8_K
        16 | 35 => (256, 66),  // IQ2_XXS, TQ2_0
        17 => (256, 74),       // IQ2_XS
        18 => (256, 98),       // IQ3_XXS
        19 => (256, 50),       // IQ1_S
        22 => (256, 82),       // IQ2_S
        23 => (256, 136),      // IQ4_XS
        24 => (1, 1),          // I8
        27 | 28 => (1, 8),     // I64, F64
        29 => (256, 56),       // IQ1_M
        34 => (256, 54),       // TQ1_0
        39 => (32, 17),        // MXFP4
        40 => (64, 36),        // NVFP4
        41 => (128, 18),       // Q1_0
        42 => (64, 18),        // Q2_0
        _ => return None,
    })
}
