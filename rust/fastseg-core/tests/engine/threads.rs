//! `fastseg_core::threads` and `fastseg_core::simd`.

use std::sync::Arc;

use fastseg_core::simd::Level;
use fastseg_core::threads::{MAX_THREADS, ThreadsError, num_threads, pool, set_num_threads};

/// All in one test: there is one pool in a process.
#[test]
fn the_pool_is_one_of_the_size_last_set() {
    let started = pool().expect("a pool");
    assert_eq!(started.current_num_threads(), num_threads());
    assert!(Arc::ptr_eq(&started, &pool().expect("the pool")));

    for threads in [3, 1, 7] {
        set_num_threads(threads).expect("few");
        assert_eq!(num_threads(), threads);
        assert_eq!(pool().expect("the pool").install(rayon::current_num_threads), threads);
    }
    // Who still holds the old pool can use it.
    assert_eq!(started.install(|| 6 * 7), 42);

    let before = pool().expect("the pool");
    for threads in [0, MAX_THREADS + 1, usize::MAX] {
        let error = set_num_threads(threads).expect_err("out of range");
        assert_eq!(error, ThreadsError::OutOfRange { threads });
        assert!(error.to_string().contains(&format!("got {threads}")));
    }
    assert!(Arc::ptr_eq(&before, &pool().expect("the pool")));

    std::thread::scope(|scope| {
        for thread in 1..5 {
            scope.spawn(move || {
                for _ in 0..10 {
                    set_num_threads(thread).expect("few");
                    let threads = pool().expect("the pool").current_num_threads();
                    assert!((1..5).contains(&threads));
                }
            });
        }
    });
    assert!((1..5).contains(&num_threads()));
}

/// The tests are run once for every instruction set.
#[test]
fn the_instruction_set_can_be_capped() {
    let level = Level::detect().name();
    match std::env::var("FASTSEG_SIMD").as_deref() {
        Ok("baseline") => assert_eq!(level, "baseline"),
        Ok("avx2") => assert_ne!(level, "avx512"),
        _ => {}
    }
}
