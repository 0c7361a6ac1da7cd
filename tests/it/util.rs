//! The call context, single-flight, bounded CPU work, the clock and the randomness that tests hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tahoefs::util::{Clock, Cpu, Cx, Priority, Rng, SingleFlight, Stopped};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn cx() -> Cx {
    Cx::new(Priority::Waiting, 1 << 20)
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_in_time_gives_its_answer() {
    let cx = cx().with_timeout(seconds(30)).with_patience(seconds(5));
    assert_eq!(cx.run(async { sleep(seconds(4)).await }).await, Ok(()));
    assert_eq!(cx.remaining(), Some(seconds(26)));
    assert_eq!(self::cx().run(sleep(seconds(1_000_000))).await, Ok(()), "no limit where none was set");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_even_what_moves() {
    let cx = cx().with_timeout(seconds(30)).with_patience(seconds(5));
    let began = Instant::now();
    let moving = async {
        loop {
            sleep(seconds(1)).await;
            cx.acknowledge();
        }
    };
    let outcome: Result<(), _> = cx.run(moving).await;
    assert_eq!(outcome, Err(Stopped::Deadline));
    assert_eq!(began.elapsed(), seconds(30));
    assert_eq!(cx.remaining(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_derived_deadline_only_shortens() {
    let cx = cx().with_timeout(seconds(10)).with_timeout(seconds(60));
    assert_eq!(cx.remaining(), Some(seconds(10)));
    assert_eq!(cx.with_timeout(seconds(3)).child().remaining(), Some(seconds(3)));
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_is_given_up_and_what_moves_is_not() {
    let cx = cx().with_patience(seconds(60));
    let began = Instant::now();
    let work = async {
        // Moves for ten minutes, then stands still.
        for _ in 0..20 {
            sleep(seconds(30)).await;
            cx.acknowledge();
        }
        std::future::pending::<()>().await
    };
    assert_eq!(cx.run(work).await, Err(Stopped::Stalled));
    let stood = began.elapsed() - seconds(600);
    assert!(stood >= seconds(60) && stood <= seconds(120), "{stood:?}");
}

#[tokio::test(start_paused = true)]
async fn another_operations_progress_counts_for_nobody_else() {
    let parent = cx();
    let (still, moving) = (parent.with_patience(seconds(60)), parent.with_patience(seconds(60)));
    let noise = async {
        loop {
            sleep(seconds(1)).await;
            moving.acknowledge();
        }
    };
    let outcome = tokio::select! {
        out = still.run(std::future::pending::<()>()) => out,
        () = noise => unreachable!("it goes on for ever"),
    };
    assert_eq!(outcome, Err(Stopped::Stalled));
    let clone = still.child().with_priority(Priority::Idle);
    assert_eq!(clone.priority(), Priority::Idle);
    let helped = async {
        for _ in 0..10 {
            sleep(seconds(50)).await;
            clone.acknowledge();
        }
    };
    assert_eq!(still.run(helped).await, Ok(()), "a derived context counts for its parent");
}

#[tokio::test(start_paused = true)]
async fn cancellation_reaches_children_and_not_parents() {
    let parent = cx();
    let child = parent.child();
    child.cancel();
    assert!(child.is_cancelled() && !parent.is_cancelled());
    assert_eq!(child.run(async { 1 }).await, Err(Stopped::Cancelled), "cancelled before it began");
    let other = parent.child();
    let late = async {
        sleep(seconds(5)).await;
        parent.cancel();
        std::future::pending::<()>().await
    };
    assert_eq!(other.run(late).await, Err(Stopped::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn the_memory_budget_is_shared_and_no_request_waits_for_more_than_all_of_it() {
    let cx = Cx::new(Priority::Background, 64 * 1024);
    let everything = cx.child().memory(1 << 40).await;
    let waiting = cx.with_timeout(seconds(1));
    assert!(matches!(waiting.run(cx.memory(1)).await, Err(Stopped::Deadline)));
    drop(everything);
    let half = cx.memory(32 * 1024).await;
    let other = cx.memory(32 * 1024).await;
    assert!(cx.with_timeout(seconds(1)).run(cx.memory(1)).await.is_err());
    drop((half, other));
    assert!(cx.with_timeout(seconds(1)).run(cx.memory(64 * 1024)).await.is_ok());
}

#[tokio::test]
async fn callers_who_ask_at_once_share_one_answer() {
    let flights = Arc::new(SingleFlight::<u8, usize>::default());
    let (made, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let ask = |key: u8| {
        let (flights, made, gate) = (Arc::clone(&flights), Arc::clone(&made), Arc::clone(&gate));
        tokio::spawn(async move {
            let work = || async {
                let mine = made.fetch_add(1, Ordering::SeqCst);
                gate.notified().await;
                mine
            };
            flights.run(key, work).await
        })
    };
    let first: Vec<_> = (0..10).map(|_| ask(1)).collect();
    let other = ask(2);
    while made.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    gate.notify_waiters();
    let mut answers = Vec::new();
    for task in first {
        answers.push(task.await.expect("an answer"));
    }
    assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
    assert_ne!(other.await.expect("an answer"), answers[0]);
    assert_eq!(made.load(Ordering::SeqCst), 2);
    assert_eq!(flights.run(1, || async { 99 }).await, 99, "nothing is remembered");
}

#[tokio::test]
async fn who_waits_takes_over_from_a_caller_that_left() {
    let flights = Arc::new(SingleFlight::<u8, &'static str>::default());
    let (started, has_started) = oneshot::channel();
    let leaver = tokio::spawn({
        let flights = Arc::clone(&flights);
        async move {
            let work = || async move {
                started.send(()).expect("somebody listens");
                std::future::pending().await
            };
            flights.run(1, work).await
        }
    });
    has_started.await.expect("it began");
    let waiter = tokio::spawn({
        let flights = Arc::clone(&flights);
        async move { flights.run(1, || async { "second" }).await }
    });
    tokio::task::yield_now().await;
    leaver.abort();
    assert_eq!(waiter.await.expect("an answer"), "second");
}

#[tokio::test]
async fn cpu_work_is_bounded_and_its_panics_reach_the_caller() {
    let cpu = Cpu::with_slots(2);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let (cpu, now, most) = (cpu.clone(), Arc::clone(&now), Arc::clone(&most));
            tokio::spawn(async move {
                let work = move || {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                    i
                };
                cpu.run(work).await
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.await.expect("an answer"), i);
    }
    assert!(most.load(Ordering::SeqCst) <= 2);
    let failing = tokio::spawn(async move { cpu.run(|| std::panic::resume_unwind(Box::new("from the work"))).await });
    let panic = failing.await.expect_err("it panicked").into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"from the work"));
}

#[test]
fn clocks_and_randomness_can_be_held() {
    let clock = Clock::held_at(5_500_000_000);
    let same = clock.clone();
    same.advance(seconds(2));
    assert_eq!((clock.now_nanos(), clock.now_secs(), clock.now_float()), (7_500_000_000, 7, 7.5));
    assert!(Clock::system().now_secs() > 1_600_000_000);
    assert_eq!(Rng::seeded(1).bytes::<40>(), Rng::seeded(1).bytes::<40>());
    assert_ne!(Rng::seeded(1).bytes::<40>(), Rng::seeded(2).bytes::<40>());
    let rng = Rng::seeded(1);
    assert_ne!(rng.bytes::<32>(), rng.clone().bytes::<32>(), "a clone goes on in the same stream");
    assert_ne!(Rng::os().bytes::<32>(), Rng::os().bytes::<32>());
}

proptest! {
    /// Whatever the pauses between acknowledgements, work stops exactly if one of them outlasts what is promised.
    #[test]
    fn patience_never_ends_early(pauses in prop::collection::vec(1u64..100, 0..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let cx = cx().with_patience(seconds(40));
            let work = async {
                for pause in &pauses {
                    sleep(seconds(*pause)).await;
                    cx.acknowledge();
                }
            };
            let outcome = cx.run(work).await;
            let longest = pauses.iter().copied().max().unwrap_or(0);
            if longest < 40 {
                assert_eq!(outcome, Ok(()));
            }
            if longest > 80 {
                assert_eq!(outcome, Err(Stopped::Stalled));
            }
        });
    }
}
