//! The client against a keeper that is played by the test.

use super::*;
use sandbox_policy::{PolicySet, RunSpec, admit};
use sandbox_wire::{Enforced, RunState, Usage};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;

fn policy() -> Arc<Policy> {
    PolicySet::shipped().get("default").unwrap()
}

fn order() -> RunOrder {
    let policy = policy();
    let admitted = admit(&policy, RunSpec::shell("echo hi")).unwrap();
    RunOrder {
        run: RunId::generate(),
        policy_digest: policy.digest(),
        admitted,
        keep_background: false,
        open_input: false,
    }
}

fn ended(run: &RunId) -> Reply {
    let outcome = RunOutcome {
        exit_code: Some(0),
        run_id: run.clone(),
        status: RunState::Exited,
        signal: None,
        timed_out: false,
        oom_killed: false,
        killed_by: None,
        duration_ms: 0.7,
        stdout_bytes: 3,
        stderr_bytes: 2,
        usage: Usage::default(),
        lingering: 0,
        denials: Vec::new(),
        enforced: Enforced::default(),
    };
    Reply::Finished { outcome: Box::new(outcome), stdout_len: 3, truncated: Truncated::default() }
}

/// The keeper's end of the next connection.
async fn accept(listener: &UnixListener) -> Connection {
    Connection::new(listener.accept().await.unwrap().0.into_std().unwrap()).unwrap()
}

async fn request(connection: &mut Connection) -> Request {
    connection.receive().await.unwrap().expect("a request comes").head
}

/// Answers runs on one connection until the caller closes it.
async fn serve(mut connection: Connection) {
    while let Ok(Some(frame)) = connection.receive().await {
        let Request::Run(order) = frame.head else { panic!("only runs are expected: {:?}", frame.head) };
        connection.send(&ended(&order.run), &[b"hi\n", b"oh"]).await.unwrap();
    }
}

fn project() -> (tempfile::TempDir, Keeper, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let keeper = Keeper::at(dir.path());
    let listener = socket::bind(dir.path()).unwrap();
    (dir, keeper, listener)
}

fn is_absent<T>(result: Result<T, KeeperError>) -> bool {
    matches!(result, Err(KeeperError::Absent(_)))
}

fn is_broken<T>(result: Result<T, KeeperError>) -> bool {
    matches!(result, Err(KeeperError::Broken(_)))
}

#[tokio::test]
async fn without_a_listener_the_keeper_is_absent() {
    let (dir, keeper, listener) = project();
    drop(listener);
    assert!(is_absent(keeper.run(order(), &policy()).await));
    assert!(is_absent(keeper.watch(&RunId::generate()).await));
    std::fs::remove_file(dir.path().join(socket::FILE_NAME)).unwrap();
    assert!(is_absent(keeper.list().await));
    drop(dir);
    assert!(is_absent(keeper.list().await));
}

#[tokio::test]
async fn one_connection_serves_calls_that_follow_each_other() {
    let (_dir, keeper, listener) = project();
    let served = tokio::spawn(async move { serve(accept(&listener).await).await });
    for _ in 0..3 {
        let order = order();
        let run = order.run.clone();
        let finished = keeper.run(order, &policy()).await.unwrap();
        assert_eq!(finished.outcome.run_id, run);
        assert_eq!((finished.stdout.as_slice(), finished.stderr.as_slice()), (&b"hi\n"[..], &b"oh"[..]));
    }
    assert_eq!(keeper.idle().len(), 1);
    drop(keeper);
    served.await.unwrap();
}

#[tokio::test]
async fn idle_connections_are_bounded_and_a_dropped_call_returns_none() {
    let (_dir, keeper, listener) = project();
    let server = tokio::spawn(async move {
        loop {
            tokio::spawn(serve(accept(&listener).await));
        }
    });
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let keeper = keeper.clone();
            tokio::spawn(async move { keeper.run(order(), &policy()).await.map(drop) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!((1..=MAX_IDLE).contains(&keeper.idle().len()));
    server.abort();

    let (_dir, keeper, _silent) = project();
    let given_up = tokio::time::timeout(Duration::from_millis(20), keeper.run(order(), &policy())).await;
    assert!(given_up.is_err());
    assert!(keeper.idle().is_empty());
}

#[tokio::test]
async fn the_policy_is_sent_when_the_keeper_asks_for_it() {
    let (_dir, keeper, listener) = project();
    let served = tokio::spawn(async move {
        let mut connection = accept(&listener).await;
        for expected in [true, false] {
            let first = request(&mut connection).await;
            assert!(matches!((&first, expected), (Request::Run(_), true) | (Request::Start(_), false)));
            connection.send(&Reply::NeedPolicy, &[]).await.unwrap();
            let Request::Policy { policy: sent, order, wait } = request(&mut connection).await else { panic!() };
            assert_eq!((sent.digest(), wait), (policy().digest(), expected));
            let started = Reply::Started { run: order.run.clone() };
            let reply = if wait { ended(&order.run) } else { started };
            connection.send(&reply, if wait { &[b"hi\noh"] } else { &[] }).await.unwrap();
        }
    });
    assert_eq!(keeper.run(order(), &policy()).await.unwrap().stderr, b"oh");
    keeper.start(order(), &policy()).await.unwrap();
    served.await.unwrap();
}

#[tokio::test]
async fn an_order_is_repeated_only_when_its_run_has_not_begun() {
    let (dir, keeper, listener) = project();
    let begun = order();
    std::fs::create_dir_all(dir.path().join("runs").join(begun.run.as_str())).unwrap();
    let served = tokio::spawn(async move {
        // Leaves without an answer, twice; then another keeper answers.
        request(&mut accept(&listener).await).await;
        request(&mut accept(&listener).await).await;
        let mut connection = accept(&listener).await;
        let Request::Run(order) = request(&mut connection).await else { panic!() };
        connection.send(&ended(&order.run), &[b"hi\noh"]).await.unwrap();
        // And dies while it holds the next one.
        request(&mut connection).await;
        drop((listener, connection));
    });
    assert!(is_broken(keeper.run(begun, &policy()).await));
    assert_eq!(keeper.run(order(), &policy()).await.unwrap().stdout, b"hi\n");
    assert!(is_absent(keeper.run(order(), &policy()).await));
    served.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_died_while_idle_is_replaced() {
    let (_dir, keeper, listener) = project();
    let served = tokio::spawn(async move {
        for _ in 0..3 {
            let mut connection = accept(&listener).await;
            assert!(matches!(request(&mut connection).await, Request::List));
            connection.send(&Reply::Runs { runs: Vec::new() }, &[]).await.unwrap();
        }
    });
    for _ in 0..3 {
        assert_eq!(keeper.list().await.unwrap(), Vec::new());
    }
    served.await.unwrap();
    assert!(is_absent(keeper.list().await));
}

#[tokio::test]
async fn half_a_reply_is_not_repeated() {
    let (_dir, keeper, listener) = project();
    let served = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&[9, 0, 0]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut connection = accept(&listener).await;
        request(&mut connection).await;
        connection.send(&"nonsense", &[]).await.unwrap();
    });
    assert!(is_broken(keeper.run(order(), &policy()).await));
    assert!(is_broken(keeper.run(order(), &policy()).await));
    served.await.unwrap();
}

#[tokio::test]
async fn small_calls_get_their_answers() {
    let (_dir, keeper, listener) = project();
    let run = RunId::generate();
    let expected = run.clone();
    let served = tokio::spawn(async move {
        let mut connection = accept(&listener).await;
        let refused = Reply::Refused(Box::new(Problem::new(Code::RunNotFound, "no such run")));
        for reply in [Reply::Done, refused, Reply::Runs { runs: vec![expected.clone()] }, ended(&expected)] {
            request(&mut connection).await;
            let tail: &[u8] = if matches!(reply, Reply::Finished { .. }) { b"hi\noh" } else { b"" };
            connection.send(&reply, &[tail]).await.unwrap();
        }
        assert!(matches!(request(&mut connection).await, Request::Stop { cause: KillCause::Shutdown }));
        connection.send(&Reply::Done, &[]).await.unwrap();
    });
    keeper.kill(&run, KillCause::Caller).await.unwrap();
    match keeper.signal(&run, 15).await {
        Err(KeeperError::Refused(problem)) => assert_eq!(problem.code, Code::RunNotFound),
        other => panic!("{other:?}"),
    }
    assert_eq!(keeper.list().await.unwrap(), vec![run.clone()]);
    assert_eq!(keeper.wait(&run).await.unwrap().stdout, b"hi\n");
    keeper.stop(KillCause::Shutdown).await.unwrap();
    served.await.unwrap();
}

#[tokio::test]
async fn a_watch_sees_growth_and_the_end() {
    let (_dir, keeper, listener) = project();
    let run = RunId::generate();
    let expected = run.clone();
    let served = tokio::spawn(async move {
        // The first keeper was just leaving.
        drop(accept(&listener).await);
        let mut connection = accept(&listener).await;
        assert!(matches!(request(&mut connection).await, Request::Watch { .. }));
        connection.send(&Reply::Grown, &[]).await.unwrap();
        connection.send(&Reply::Grown, &[]).await.unwrap();
        connection.send(&ended(&expected), &[]).await.unwrap();
        assert!(matches!(request(&mut connection).await, Request::Watch { .. }));
        connection.send(&Reply::Grown, &[]).await.unwrap();
    });
    let mut watch = keeper.watch(&run).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Seen::Grown));
    assert!(matches!(watch.next().await.unwrap(), Seen::Grown));
    assert!(matches!(watch.next().await.unwrap(), Seen::Finished(outcome) if outcome.run_id == run));
    assert!(is_broken(watch.next().await));
    let mut watch = keeper.watch(&run).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Seen::Grown));
    assert!(is_broken(watch.next().await));
    served.await.unwrap();
}

/// What a call costs besides the run; `--nocapture` in a release build for the figure.
#[tokio::test]
async fn a_call_is_cheap() {
    let (_dir, keeper, listener) = project();
    let served = tokio::spawn(async move { serve(accept(&listener).await).await });
    let (policy, first) = (policy(), order());
    let begun = Instant::now();
    for _ in 0..200 {
        keeper.run(first.clone(), &policy).await.unwrap();
    }
    let each = begun.elapsed() / 200;
    println!("{each:?} for both ends of a call");
    assert!(each < Duration::from_millis(20), "{each:?}");
    drop(keeper);
    served.await.unwrap();
}
