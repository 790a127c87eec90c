//! `fastseg_core::memory`.

use fastseg_core::memory::{Buffer, Workspace};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Arrays are taken and given back in any order: nobody writes into another's.
    #[test]
    fn arrays_are_apart_and_bounded(
        limit in 0usize..3_000_000,
        steps in prop::collection::vec((0usize..400_000, any::<bool>(), 0usize..8), 1..40),
    ) {
        let workspace = Workspace::new(limit);
        let mut taken: Vec<(u32, Buffer<u32>)> = Vec::new();
        for (i, &(len, shrink, which)) in steps.iter().enumerate() {
            if which < taken.len() {
                taken.swap_remove(which);
                prop_assert!(workspace.bytes() <= limit);
            }
            // Few sizes, so that some come back.
            let len = if shrink { len / 100_000 * 1000 } else { len };
            let mut buffer = workspace.take::<u32>(len);
            prop_assert_eq!(buffer.len(), len);
            prop_assert_eq!(buffer.as_ptr() as usize % 64, 0);
            buffer.fill(i as u32);
            taken.push((i as u32, buffer));
            for (value, buffer) in &taken {
                prop_assert!(buffer.iter().all(|x| x == value));
            }
        }
        workspace.clear();
        prop_assert_eq!(workspace.bytes(), 0);
        drop(taken);
        prop_assert!(workspace.bytes() <= limit);
    }
}

#[test]
fn a_lower_limit_counts_at_once() {
    let workspace = Workspace::new(usize::MAX);
    let buffers: Vec<_> = (1..10).map(|n| workspace.take::<u16>(n * 1000)).collect();
    drop(buffers);
    assert_eq!(workspace.bytes(), 2 * 45_000);
    workspace.set_limit(30_000);
    assert_eq!(workspace.limit(), 30_000);
    assert!(workspace.bytes() <= 30_000);
    let large = workspace.take::<u16>(20_000);
    drop(large);
    assert!(workspace.bytes() <= 30_000);
}

#[test]
fn a_buffer_outlives_its_owner_and_may_move_between_threads() {
    let workspace = Workspace::new(1 << 20);
    let mut buffer = workspace.take::<f32>(100);
    drop(workspace);
    buffer.fill(2.5);
    let sum = std::thread::spawn(move || buffer.iter().sum::<f32>()).join().expect("no panic");
    assert_eq!(sum, 250.0);
}

#[test]
fn threads_share_a_workspace() {
    let workspace = Workspace::new(200_000);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let workspace = &workspace;
            scope.spawn(move || {
                for i in 0..200usize {
                    let mut buffer = workspace.take::<u32>(1000 * (1 + (i * 7) % 20));
                    buffer.fill(thread);
                    assert!(buffer.iter().all(|&x| x == thread));
                }
            });
        }
    });
    assert!(workspace.bytes() > 0);
}
