//! The engine process: one model, one port, one life. What it prints is its log, as JSON lines on stderr.

mod args;
mod life;
mod ops;
mod process;
mod service;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use clap::Parser as _;
use tandem_contract::{Ended, Observer, local};
use tandem_engine::{Lease, Prompt, Sampling, TextGenerator, TextRequest};
use tandem_engine_llama::{
    LEASE_TOO_SMALL, LlamaGenerator, MODEL_CORRUPT, MODEL_MISSING, OTHER_PROCESSOR, check_processor, resident_bytes,
};
use tandem_process::Heart;
use tandem_telemetry::Exporter;
use tandem_types::{Fault, reason};
use tokio::net::TcpListener;

use crate::args::Args;
use crate::life::{Life, now};
use crate::ops::Ops;
use crate::process::{Parent, asked_to_end};
use crate::service::Serving;

/// An idle engine proves itself again after so long, well within the time it counts as capable.
const PROVE_EVERY: Duration = Duration::from_secs(300);
/// Time between two heartbeats.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Time for clients to read the last error of an engine that ended by itself.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Hears of calls where nobody collects spans.
struct Untold;

impl Observer for Untold {
    fn finished(&self, _: &Ended<'_>) {}
}

fn main() -> ExitCode {
    process::settle_openmp();
    // Before anything else is asked of it: `--version` says whether this program runs here.
    if let Err(fault) = check_processor() {
        eprintln!("error: {}", fault.message);
        return ExitCode::from(code_of(&fault));
    }
    let args = Args::parse();
    start_log();
    let parent = match Parent::watch() {
        Ok(parent) => parent,
        Err(e) => return ended(&Fault::internal(format!("watch the parent process: {e}"))),
    };
    // One thread for all connections: the cores are for the model.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return ended(&Fault::internal(format!("start the async runtime: {e}"))),
    };
    match runtime.block_on(run(&args, parent)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => ended(&fault),
    }
}

fn start_log() {
    let asked = std::env::var("TANDEM_LOG").unwrap_or_else(|_| "info".to_owned());
    // llama.cpp calls dozens of lines about every model "info".
    let filter = tracing_subscriber::EnvFilter::new(format!("llama-cpp-2=error,{asked}"));
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();
}

fn ended(fault: &Fault) -> ExitCode {
    tracing::error!(reason = fault.reason, "{}", fault.message);
    ExitCode::from(code_of(fault))
}

fn code_of(fault: &Fault) -> u8 {
    match fault.reason.as_str() {
        MODEL_MISSING => 3,
        MODEL_CORRUPT => 4,
        LEASE_TOO_SMALL => 5,
        reason::PORT_TAKEN => 6,
        reason::ENGINE_LOST => 7,
        OTHER_PROCESSOR => 8,
        reason::BAD_FIELD => 2,
        _ => 1,
    }
}

async fn run(args: &Args, parent: Parent) -> Result<(), Fault> {
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|e| Fault::unavailable(reason::PORT_TAKEN, format!("cannot listen at {}: {e}", args.listen)))?;
    let address = listener.local_addr().map_err(|e| Fault::internal(format!("read the bound address: {e}")))?;

    let role = args.roles.first().cloned().ok_or_else(|| Fault::invalid_field("role", "is missing"))?;
    let lease = Lease::from_grant(args.group.clone(), role, args.lease_bytes);
    let engine = LlamaGenerator::load(args.options(), lease).await?;
    prove(&engine).await?;
    // Until here a signal simply ends the process: nobody waits for an answer.
    let end = asked_to_end(parent)?;
    let measured = resident_bytes();

    let life = Life::ready(now());
    let serving =
        Arc::new(Serving { model: Arc::new(engine.clone()), roles: args.roles.clone(), life: Arc::clone(&life) });
    let me = args.group.agent("Engine".parse().map_err(|e| Fault::internal(format!("{e}")))?);
    let exporter = tandem_telemetry::spans(&format!("{}/{}", args.group, engine.info().model))?;
    let spans = exporter.as_ref().map_or_else(|| Arc::new(Untold) as Arc<dyn Observer>, Exporter::observer);
    let rpcs = local(service::service(Arc::clone(&serving)).into_http_at(me, spans));
    let ops = Arc::new(Ops { serving, engine: engine.clone(), lease_bytes: args.lease_bytes });
    // Tokens are small and must not wait to be sent together.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let server = tokio::spawn(axum::serve(listener, ops::routes(ops, rpcs)).into_future());
    let prover = tokio::spawn(prove_again(engine.clone(), Arc::clone(&life)));

    tracing::info!(model = engine.info().model, %address, measured_bytes = measured, "ready");
    let lines = [format!("X_TANDEM_ENDPOINT=http://{address}"), format!("X_TANDEM_MEASURED_BYTES={measured}")];
    tell(&[
        sd_notify::NotifyState::Ready,
        sd_notify::NotifyState::Custom(&lines[0]),
        sd_notify::NotifyState::Custom(&lines[1]),
    ])?;
    let heart = Heart::of_environment().map_err(|e| Fault::internal(format!("make the socket for heartbeats: {e}")))?;
    let beats = tokio::spawn(beat(heart));

    let outcome = tokio::select! {
        () = end => {
            life.drain("asked to end");
            // Whoever listened may have stopped; the answers under way still finish.
            if let Err(fault) = tell(&[sd_notify::NotifyState::Stopping]) {
                tracing::warn!(%fault, "nobody hears that this engine ends");
            }
            let drained = tokio::time::timeout(args.drain(), life.idle()).await.is_ok();
            tracing::info!(drained, "ending");
            engine.stop().await
        }
        lost = engine.ended() => {
            life.drain("the engine ended by itself");
            let _ = tokio::time::timeout(LAST_WORDS, life.idle()).await;
            let why = lost.err().map_or_else(String::new, |fault| fault.message);
            Err(Fault::unavailable(reason::ENGINE_LOST, format!("the engine ended by itself: {why}")))
        }
    };
    beats.abort();
    prover.abort();
    server.abort();
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
    outcome
}

fn tell(lines: &[sd_notify::NotifyState<'_>]) -> Result<(), Fault> {
    sd_notify::notify(false, lines).map_err(|e| Fault::internal(format!("write to $NOTIFY_SOCKET: {e}")))
}

/// Says each second that this process runs, to whoever started it.
async fn beat(heart: Option<Heart>) {
    let Some(heart) = heart else { return };
    loop {
        heart.beat();
        tokio::time::sleep(BEAT_EVERY).await;
    }
}

/// Has the model write a few tokens, the only proof that it can.
async fn prove(engine: &LlamaGenerator) -> Result<(), Fault> {
    let request = TextRequest {
        max_tokens: Some(2),
        sampling: Sampling::greedy(),
        priority: 10,
        ..TextRequest::new(Prompt::Raw("Hello".to_owned()))
    };
    engine.generate(request).await?.collect().await.map(drop)
}

async fn prove_again(engine: LlamaGenerator, life: Arc<Life>) {
    loop {
        tokio::time::sleep(PROVE_EVERY).await;
        if now().since(life.last_answer()) < PROVE_EVERY {
            continue;
        }
        match prove(&engine).await {
            Ok(()) => life.answered(now()),
            Err(fault) => tracing::warn!(%fault, "the engine could not prove itself"),
        }
    }
}
