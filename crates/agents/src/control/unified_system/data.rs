//! Requests about a person's data: every group is asked until every one has answered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::future::join_all;
use metrics::gauge;
use serde_json::json;
use tandem_contract::Call;
use tandem_contract::pb::tandem::system::v1 as pb;
use tandem_contract::rpc::host;
use tandem_store::actions::{DataKind, DataRequest};
use tandem_store::personal::{ExportRow, Forgotten, PersonalData};
use tandem_types::{Code, Fault, GroupId, IdempotencyKey, State, UserId, reason};
use tokio::sync::mpsc;

use super::{DATA_FORGOTTEN, SystemHand, export, wire};
use crate::fields::Fields;

/// How long a group may take to forget.
const FORGETTING: Duration = Duration::from_secs(20);
/// How long a caller is taken to wait who does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rows by store, as a group answered.
pub(super) type Stores = BTreeMap<String, u64>;

impl SystemHand {
    pub(super) async fn request_forget(
        self: Arc<Self>,
        call: Call,
        request: pb::RequestForgetRequest,
    ) -> Result<pb::RequestForgetResponse, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let (key, user) = fields.all(key.zip(user))?;
        if request.confirm_user_id != request.user_id {
            let message = "forgetting cannot be undone: repeat the person's id in `confirm_user_id`";
            return Err(Fault::new(Code::FailedPrecondition, reason::CONFIRMATION_NEEDED, message));
        }
        let request = self.request(&call, key, DataKind::Forget, user, String::new()).await?;
        Ok(pb::RequestForgetResponse { request: wire::data_request(request).into(), ..Default::default() })
    }

    pub(super) async fn request_export(
        self: Arc<Self>,
        call: Call,
        request: pb::RequestExportRequest,
    ) -> Result<pb::RequestExportResponse, Fault> {
        let mut fields = Fields::default();
        let key = fields.key(&request.idempotency_key);
        let user = fields.parse::<UserId>("user_id", &request.user_id);
        let (key, user) = fields.all(key.zip(user))?;
        let path = self.exports().join(format!("{key}.jsonl"));
        let path = path.into_os_string().into_string();
        let path = path.map_err(|path| Fault::internal(format!("the data folder is not UTF-8: {}", path.display())))?;
        let request = self.request(&call, key, DataKind::Export, user, path).await?;
        Ok(pb::RequestExportResponse { request: wire::data_request(request).into(), ..Default::default() })
    }

    pub(super) async fn get_data_request(
        self: Arc<Self>,
        _: Call,
        request: pb::GetDataRequestRequest,
    ) -> Result<pb::GetDataRequestResponse, Fault> {
        let request = self.store.data_request(&request.request_id).await?;
        Ok(pb::GetDataRequestResponse { request: wire::data_request(request).into(), ..Default::default() })
    }

    /// Keeps a request, asks every group once, and says how far it came. Groups that are not built have never kept
    /// anything and are not asked.
    async fn request(
        self: &Arc<Self>,
        call: &Call,
        key: IdempotencyKey,
        kind: DataKind,
        user: UserId,
        path: String,
    ) -> Result<DataRequest, Fault> {
        let groups = self.built_groups().map(|group| group.id.clone()).collect();
        let request = self.store.request_data(key, kind, &user, groups, path, self.now()).await?;
        let (done, ended) = tokio::sync::oneshot::channel();
        let (hand, id) = (self.clone(), request.id.clone());
        self.ctx.spawn(async move {
            let _one_at_a_time = hand.running.data.lock().await;
            hand.work_on_data(&id).await;
            // Nobody listens when the caller has left.
            let _ = done.send(());
        });
        // Time being up is an answer too: the request as it stands.
        let (Ok(_) | Err(_)) = tokio::time::timeout(Self::time_left(call, PATIENCE), ended).await;
        self.store.data_request(&request.id).await
    }

    /// Folder of the files that people get.
    fn exports(&self) -> PathBuf {
        self.ctx.data_dir().join("exports")
    }

    /// Removes what is past its time: rows, then the files that belonged to them.
    pub(super) async fn tidy(self: Arc<Self>) -> Result<(), Fault> {
        self.store.prune(self.now()).await?;
        // A row is there before its file, so every file that is seen first has one, unless its time is over.
        let files = export::files(&self.exports()).await?;
        let kept = self.store.exports(None).await?;
        let past = files.into_iter().filter(|file| !kept.iter().any(|request| export::is_of(file, request)));
        export::remove(past).await.map(drop)
    }

    /// Asks again, for every open request, the groups that have not answered.
    pub(super) async fn retry_data(self: Arc<Self>) -> Result<(), Fault> {
        // One is being worked on, which takes its time; the others have time.
        let Ok(_one_at_a_time) = self.running.data.try_lock() else { return Ok(()) };
        for request in self.store.open_data_requests().await? {
            self.ctx.beat();
            self.work_on_data(&request.id).await;
        }
        self.show_open_requests().await
    }

    pub(super) async fn show_open_requests(&self) -> Result<(), Fault> {
        let open = self.store.open_data_requests().await?.len();
        gauge!("tandem_data_requests_open").set(u32::try_from(open).unwrap_or(u32::MAX));
        Ok(())
    }

    /// One round, under the lock: groups are asked side by side; the answer that would close the request is kept last, after what
    /// belongs to its end.
    async fn work_on_data(&self, id: &str) {
        if let Err(fault) = self.try_data(id).await {
            tracing::error!(request = id, %fault, "a data request could not be worked on");
        }
    }

    async fn try_data(&self, id: &str) -> Result<(), Fault> {
        let request = self.store.data_request(id).await?;
        if request.closed.is_some() {
            return Ok(());
        }
        let open: Vec<&GroupId> =
            request.groups.iter().filter(|group| group.answered.is_none()).map(|group| &group.group).collect();
        let answers = join_all(open.iter().map(|group| self.ask_for_data(&request, group))).await;
        let mut left = open.len();
        for (group, answer) in open.into_iter().zip(answers) {
            let ended = match (answer, left) {
                (Ok(stores), 1) => self.end_of(&request).await.map(|()| stores),
                (answer, _) => answer,
            };
            match ended {
                Ok(stores) => {
                    self.store.answered(id, group, stores, self.now()).await?;
                    left -= 1;
                }
                Err(fault) => self.store.waits_for(id, group, &fault.message).await?,
            }
        }
        if left == 0 && request.kind == DataKind::Export {
            export::clean_up(&PathBuf::from(&request.path), request.groups.iter().map(|g| &g.group)).await;
        }
        self.show_open_requests().await
    }

    /// What must have happened before a request may be closed. May happen twice.
    async fn end_of(&self, request: &DataRequest) -> Result<(), Fault> {
        match request.kind {
            DataKind::Forget => {
                let payload = json!({ "user": request.user, "request_id": request.id });
                self.ctx.publisher().publish_about(&request.user, DATA_FORGOTTEN, request.user.as_str(), payload).await
            }
            DataKind::Export => {
                export::put_together(&PathBuf::from(&request.path), request.groups.iter().map(|g| &g.group)).await
            }
        }
    }

    async fn ask_for_data(&self, request: &DataRequest, group: &GroupId) -> Result<Stores, Fault> {
        self.all_stores_answer(group).await?;
        match request.kind {
            DataKind::Forget => {
                let call = self.ctx.call().within(FORGETTING, Instant::now());
                let asked = pb::ForgetRequest {
                    user_id: request.user.to_string(),
                    request_id: request.id.clone(),
                    ..Default::default()
                };
                let answer = self.ctx.peers().group(group)?.unary(host::FORGET, asked, &call).await?;
                let mut stores = Stores::new();
                for store in answer.stores {
                    *stores.entry(store.store).or_default() += store.rows;
                }
                Ok(stores)
            }
            DataKind::Export => self.export_from(group, request).await,
        }
    }

    /// A host can only ask the stores of agents that run.
    async fn all_stores_answer(&self, group: &GroupId) -> Result<(), Fault> {
        let health = self.health_of(group, 0).await?;
        let down = health.agents.iter().filter(|agent| agent.built).find_map(|agent| {
            let state = agent.health.as_option().map_or(State::Unknown, |h| tandem_contract::state_of(h.state));
            let runs = matches!(state, State::Ready | State::Degraded | State::Unavailable | State::Draining);
            (!runs).then(|| format!("{} is {state}, and its store cannot be asked", agent.agent))
        });
        match down {
            Some(why) => Err(Fault::unavailable(reason::PEER_AWAY, why)),
            None => Ok(()),
        }
    }
}

/// What this agent keeps about people: who ordered what, and the files it made for them.
#[async_trait]
impl PersonalData for SystemHand {
    async fn export(&self, user: &UserId, rows: mpsc::Sender<ExportRow>) -> Result<u64, Fault> {
        self.store.export(user, rows).await
    }

    async fn forget(&self, user: &UserId) -> Result<Forgotten, Fault> {
        let mut files = 0;
        for request in self.store.exports(Some(user)).await? {
            let of_request = export::files(&self.exports()).await?;
            let of_request = of_request.into_iter().filter(|file| export::is_of(file, &request));
            files += export::remove(of_request).await?;
            self.store.withdrawn(&request.id, self.now()).await?;
        }
        let mut forgotten = self.store.forget(user).await?;
        forgotten.tables.insert("export files", files);
        self.show_open_requests().await?;
        Ok(forgotten)
    }
}
