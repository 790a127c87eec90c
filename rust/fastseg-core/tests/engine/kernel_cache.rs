//! `fastseg_core::crf::KernelCache`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fastseg_core::control::Control;
use fastseg_core::crf::{KernelCache, Normalization, PairwiseKernel, SpatialKey};
use fastseg_core::lattice::{Features, LatticeError};
use fastseg_core::memory::Workspace;
use proptest::prelude::*;

fn key(width: usize, sigma: f32) -> SpatialKey {
    let normalization = Normalization::Symmetric;
    SpatialKey { shape: vec![8, width], sigmas: vec![sigma.to_bits(); 2], normalization }
}

fn build(width: usize, sigma: f32) -> Result<PairwiseKernel, LatticeError> {
    let features = Features::grid(&[8, width], &[sigma, sigma], None);
    let normalization = Normalization::Symmetric;
    PairwiseKernel::build(&features, normalization, false, &Workspace::new(0), &Control::default())
}

fn get(cache: &KernelCache, width: usize) -> Arc<PairwiseKernel> {
    cache.get_or_build(key(width, 2.0), || build(width, 2.0)).expect("in range")
}

fn is_kept(cache: &KernelCache, width: usize) -> bool {
    cache.get_or_build(key(width, 2.0), || Err(())).is_ok()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_more_is_kept_than_the_limit(
        widths in prop::collection::vec(1usize..60, 1..12),
        limits in prop::collection::vec(0usize..60_000, 1..4),
    ) {
        let cache = KernelCache::new(limits[0]);
        for (i, &width) in widths.iter().enumerate() {
            let limit = limits[i * limits.len() / widths.len()];
            cache.set_limit(limit);
            prop_assert!(cache.bytes() <= limit);
            let kernel = get(&cache, width);
            prop_assert_eq!(kernel.lattice().points(), 8 * width);
            prop_assert!(cache.bytes() <= limit);
            prop_assert_eq!(cache.limit(), limit);
            // What was asked for last is there, if there is room for it at all.
            prop_assert_eq!(is_kept(&cache, width), kernel.bytes() <= limit);
        }
        cache.clear();
        prop_assert_eq!(cache.bytes(), 0);
    }
}

#[test]
fn the_least_recently_used_goes_first() {
    let cache = KernelCache::new(usize::MAX);
    let bytes: usize = [20, 21, 22].iter().map(|&width| get(&cache, width).bytes()).sum();
    assert_eq!(cache.bytes(), bytes);
    get(&cache, 20);
    cache.set_limit(bytes - 1);
    assert!(!is_kept(&cache, 21));
    assert!(is_kept(&cache, 20) && is_kept(&cache, 22));
}

#[test]
fn a_kernel_is_built_once_and_shared() {
    let cache = KernelCache::new(1 << 20);
    let built = AtomicUsize::new(0);
    let get = || {
        let build = || {
            built.fetch_add(1, Ordering::Relaxed);
            build(30, 2.0)
        };
        cache.get_or_build(key(30, 2.0), build).expect("in range")
    };
    let first = get();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(get)).collect();
        for thread in threads {
            assert!(Arc::ptr_eq(&thread.join().expect("no panic"), &first));
        }
    });
    assert_eq!(built.into_inner(), 1);
    assert_eq!(cache.bytes(), first.bytes());
}

/// Threads that miss at the same time may each build, but one kernel is kept.
#[test]
fn a_race_keeps_one() {
    for _ in 0..20 {
        let cache = KernelCache::new(1 << 20);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| get(&cache, 30));
            }
        });
        assert_eq!(cache.bytes(), get(&cache, 30).bytes());
    }
}

#[test]
fn all_of_the_key_counts() {
    let cache = KernelCache::new(1 << 20);
    get(&cache, 30);
    let other = |key: SpatialKey| cache.get_or_build(key, || Err(())).is_err();
    assert!(!other(key(30, 2.0)));
    assert!(other(key(30, 2.1)));
    assert!(other(SpatialKey { shape: vec![30, 8], ..key(30, 2.0) }));
    assert!(other(SpatialKey { shape: vec![1, 8, 30], ..key(30, 2.0) }));
    assert!(other(SpatialKey { normalization: Normalization::None, ..key(30, 2.0) }));
}

#[test]
fn an_error_is_not_kept() {
    let cache = KernelCache::new(1 << 20);
    assert!(cache.get_or_build(key(9, 1e-12), || build(9, 1e-12)).is_err());
    assert_eq!(cache.bytes(), 0);
    assert!(cache.get_or_build(key(9, 1e-12), || build(9, 2.0)).is_ok());
}
