//! Logits as they lie in memory: any float type, any order of axes.

use crate::simd;

/// Values of one of the float types.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// 64 bits; rounded to 32 when read.
    F64(&'a [f64]),
    /// 16 bits, IEEE half precision.
    F16(&'a [u16]),
    /// 16 bits, the upper half of 32.
    Bf16(&'a [u16]),
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F64(x) => x.len(),
            Self::F16(x) | Self::Bf16(x) => x.len(),
        }
    }
}

/// The strides lead outside of the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfBounds;

/// A batch of logits (B, K, h, w), at any strides.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: Values<'a>,
    first: usize,
    shape: [usize; 4],
    strides: [isize; 4],
}

impl<'a> Logits<'a> {
    /// Logits whose first value is `values[first]`, with strides in values.
    pub fn new(
        values: Values<'a>,
        first: usize,
        shape: [usize; 4],
        strides: [isize; 4],
    ) -> Result<Self, OutOfBounds> {
        if !shape.contains(&0) {
            let (mut low, mut high) = (first as i128, first as i128);
            for (&size, &stride) in shape.iter().zip(&strides) {
                let reach = (size as i128 - 1) * stride as i128;
                low += reach.min(0);
                high += reach.max(0);
            }
            if low < 0 || high >= values.len() as i128 {
                return Err(OutOfBounds);
            }
        }
        Ok(Self { values, first, shape, strides })
    }

    /// (B, K, h, w).
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    fn at(&self, index: [usize; 4]) -> usize {
        let offset: isize =
            index.iter().zip(&self.strides).map(|(&i, &stride)| i as isize * stride).sum();
        self.first.wrapping_add_signed(offset)
    }
}

/// A window of logits: rows and columns of one item of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Which item of the batch.
    pub item: usize,
    /// The first row.
    pub row: usize,
    /// How many rows; those below the last one repeat it.
    pub rows: usize,
    /// The first column.
    pub column: usize,
    /// How many columns; those right of the last one repeat it.
    pub columns: usize,
}

/// Reads channels of a window as `f32`: planes `plane` apart, rows `pitch`
/// apart.
///
/// # Safety
/// `to` must be valid for as many planes of `window.rows` rows of `window.columns` values.
#[inline(always)]
pub unsafe fn read(
    logits: &Logits,
    window: &Window,
    channels: std::ops::Range<usize>,
    to: *mut f32,
    plane: usize,
    pitch: usize,
) {
    // SAFETY: as the caller.
    unsafe {
        match logits.values {
            Values::F32(x) => read_as(x, logits, window, channels, to, plane, pitch),
            Values::F64(x) => read_as(x, logits, window, channels, to, plane, pitch),
            Values::F16(x) => {
                read_as(F16::of(x), logits, window, channels, to, plane, pitch);
            }
            Values::Bf16(x) => {
                read_as(Bf16::of(x), logits, window, channels, to, plane, pitch);
            }
        }
    }
}

trait Float: Copy {
    fn to_f32(self) -> f32;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Float for f64 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self as f32
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct F16(u16);

impl F16 {
    fn of(bits: &[u16]) -> &[Self] {
        // SAFETY: the same layout, and any bits are a value.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }
}

impl Float for F16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        let bits = u32::from(self.0);
        let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7FFF);
        // The exponent's bias goes from 15 to 127 by a multiplication, which is right for
        // subnormal numbers, too.
        let scaled = f32::from_bits(magnitude << 13) * f32::from_bits((127 + 112) << 23);
        let special = if magnitude >= 0x7C00 { 0x7F80_0000 } else { 0 };
        f32::from_bits(scaled.to_bits() | special | sign)
    }
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bf16(u16);

impl Bf16 {
    fn of(bits: &[u16]) -> &[Self] {
        // SAFETY: the same layout, and any bits are a value.
        unsafe { std::slice::from_raw_parts(bits.as_ptr().cast(), bits.len()) }
    }
}

impl Float for Bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

/// # Safety
/// As for [`read`].
#[inline(always)]
unsafe fn read_as<T: Float>(
    values: &[T],
    logits: &Logits,
    window: &Window,
    channels: std::ops::Range<usize>,
    to: *mut f32,
    plane: usize,
    pitch: usize,
) {
    let [_, _, height, width] = logits.shape;
    let [_, step_channel, _, step] = logits.strides;
    let there = window.columns.min(width - window.column);
    for row in 0..window.rows {
        let source = (window.row + row).min(height - 1);
        // SAFETY: `Logits::new` checked that every index below the shape is inside the values;
        // the caller vouches for `to`.
        unsafe {
            if step_channel == 1 && step != 1 {
                let from = logits.at([window.item, channels.start, source, window.column]);
                let from = values.as_ptr().add(from);
                pixels_to_planes(from, step, there, channels.len(), to.add(row * pitch), plane);
            } else {
                for (i, channel) in channels.clone().enumerate() {
                    let from = logits.at([window.item, channel, source, window.column]);
                    let from = values.as_ptr().add(from);
                    let to = to.add(i * plane + row * pitch);
                    if step == 1 {
                        for x in 0..there {
                            *to.add(x) = (*from.add(x)).to_f32();
                        }
                    } else {
                        for x in 0..there {
                            *to.add(x) = (*from.offset(x as isize * step)).to_f32();
                        }
                    }
                }
            }
            for i in 0..channels.len() {
                let to = to.add(i * plane + row * pitch);
                for x in there..window.columns {
                    *to.add(x) = *to.add(there - 1);
                }
            }
        }
    }
}

/// Pixels with their channels side by side, `step` apart, to planes.
///
/// # Safety
/// `from` must be valid for `pixels` of `channels` values, `to` for `channels` planes of `pixels`.
#[inline(always)]
unsafe fn pixels_to_planes<T: Float>(
    from: *const T,
    step: isize,
    pixels: usize,
    channels: usize,
    to: *mut f32,
    plane: usize,
) {
    const PIXELS: usize = 16;
    const CHANNELS: usize = 32;
    let mut block = [0.0; PIXELS * CHANNELS];
    for pixel in (0..pixels).step_by(PIXELS) {
        let some = PIXELS.min(pixels - pixel);
        for channel in (0..channels).step_by(CHANNELS) {
            let several = CHANNELS.min(channels - channel);
            // SAFETY: as the caller; the block holds 16 pixels of 32 channels.
            unsafe {
                for i in 0..some {
                    let from = from.offset((pixel + i) as isize * step).add(channel);
                    for (j, to) in block[i * CHANNELS..][..several].iter_mut().enumerate() {
                        *to = (*from.add(j)).to_f32();
                    }
                }
                let to = to.add(channel * plane + pixel);
                simd::transpose(block.as_ptr(), CHANNELS, to, plane, some, several);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision() {
        let known = [
            (0x0000, 0.0),
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x83FF, -6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x7C00, f32::INFINITY),
            (0xFC00, f32::NEG_INFINITY),
            (0x3555, 0.333_251_95),
        ];
        for (bits, value) in known {
            assert_eq!(F16(bits).to_f32(), value, "{bits:#06x}");
        }
        assert!(F16(0x7E00).to_f32().is_nan() && F16(0x7C01).to_f32().is_nan());
        assert_eq!(F16(0x8000).to_f32().to_bits(), (-0.0f32).to_bits());
        assert_eq!(Bf16(0xC2F7).to_f32(), -123.5);
    }

    #[test]
    fn any_order_of_axes() {
        let (k, h, w) = (35, 3, 19);
        let value = |c: usize, y: usize, x: usize| (c * 10_000 + y * 100 + x) as f32;
        let orders: [[isize; 3]; 3] = [
            [(h * w) as isize, w as isize, 1],
            [1, (w * k) as isize, k as isize],
            [w as isize, -((k * w) as isize), 1],
        ];
        for [sk, sy, sx] in orders {
            let first = if sy < 0 { (h - 1) * k * w } else { 0 };
            let mut values = vec![0.0; k * h * w];
            for (c, y, x) in (0..k * h * w).map(|i| (i / (h * w), i / w % h, i % w)) {
                let at = first as isize + c as isize * sk + y as isize * sy + x as isize * sx;
                values[at as usize] = value(c, y, x);
            }
            let logits = Logits::new(Values::F32(&values), first, [1, k, h, w], [0, sk, sy, sx]);
            let logits = logits.expect("inside");
            let window = Window { item: 0, row: 1, rows: 3, column: 2, columns: 20 };
            let mut read_back = vec![f32::NAN; 33 * 60];
            // SAFETY: plain Rust; room for 33 planes of three rows of 20.
            unsafe { read(&logits, &window, 2..35, read_back.as_mut_ptr(), 60, 20) };
            for (i, x) in read_back.iter().enumerate() {
                let (c, y, column) = (i / 60 + 2, (i / 20 % 3 + 1).min(2), (i % 20 + 2).min(18));
                assert_eq!(*x, value(c, y, column));
            }
        }
    }

    #[test]
    fn strides_are_checked() {
        let values = [0.0; 24];
        let new = |first, strides| Logits::new(Values::F32(&values), first, [1, 2, 3, 4], strides);
        assert!(new(0, [24, 12, 4, 1]).is_ok());
        assert!(new(23, [0, -12, -4, -1]).is_ok());
        assert_eq!(new(1, [24, 12, 4, 1]).err(), Some(OutOfBounds));
        assert_eq!(new(22, [0, -12, -4, -1]).err(), Some(OutOfBounds));
        assert_eq!(new(0, [0, 0, 0, isize::MAX]).err(), Some(OutOfBounds));
    }
}
