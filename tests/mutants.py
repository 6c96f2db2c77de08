"""Hand-kept mutants: wrong edits that the tests must notice. ``python -m tests.mutants [NAME ...]``.

Each one replaces a text that occurs once, in a temporary copy of the tree, and runs the tests that should
fail; one that survives is a gap in the tests. See mutants.md for what each stands for.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("gateway", "routing", "backends", "semantic_cache", "dashboards", "tests", "pyproject.toml")


class Mutant(NamedTuple):
    """One wrong edit and the tests that must fail with it."""

    path: str
    old: str
    new: str
    tests: str


ATTEMPTS, EXCHANGE, PIPELINE = "gateway/attempts.py", "gateway/api/exchange.py", "gateway/pipeline.py"
PLAIN, CONNECTION = "backends/clients/plain.py", "backends/clients/connection.py"
DISPATCHER, WIRE = "gateway/dispatcher.py", "gateway/wire.py"
ASKING, HEARD, FLEET = "gateway/asking.py", "gateway/openai/continuation.py", "backends/replica.py"
CARRYING, RESTRAINT = "gateway/carrying.py", "gateway/restraint.py"
T_SIMULATED, T_REPLICA = "tests/simulation/test_faults_simulated.py", "tests/unit/test_replica.py"
T_CONTINUATION, T_DRAIN = "tests/unit/test_continuation.py", "tests/integration/test_drain.py"
T_ATTEMPTS, T_EXCHANGE = "tests/unit/test_attempts.py", "tests/unit/test_exchange.py"
T_PLAIN, T_DISPATCHER = "tests/unit/test_plain_client.py", "tests/unit/test_dispatcher.py"
T_FAULTS, T_DISCONNECTS = "tests/integration/test_faults.py", "tests/integration/test_disconnects.py"
T_STREAMS, T_LEDGER = "tests/integration/test_streams.py", "tests/integration/test_ledger_through_the_door.py"
LINE, SCHEDULER, T_SCHEDULER = "routing/line.py", "routing/scheduler.py", "tests/unit/test_scheduler.py"
BATCHING, T_BATCHING = "gateway/batching.py", "tests/unit/test_batching.py"
POLICIES, T_POLICIES, T_LINE = "routing/policies.py", "tests/unit/test_policies.py", "tests/unit/test_line.py"
DELIVERY, CALLS, SUPERVISOR = "gateway/delivery.py", "gateway/calls.py", "backends/supervisor.py"
T_MONEY, T_FLEET = "tests/integration/test_money_complaints.py", "tests/integration/test_fleet_apart.py"
T_WIRE = "tests/unit/test_wire.py"
T_EDGES = "tests/integration/test_http_edges.py"
T_TOGETHER, T_LEARNING = "tests/unit/test_together.py", "tests/unit/test_learning.py"
T_CHOOSING, T_OBJECTIVES = "tests/unit/test_choosing.py", "tests/unit/test_objectives.py"
T_MINUTES, T_KEPT_TIERS = "tests/integration/test_minutes.py", "tests/integration/test_kept_tiers.py"

MUTANTS = {
    "no-close": Mutant(
        ATTEMPTS,
        "reply.close()\n                this.ended_s = self.now()\n            out",
        "this.ended_s = self.now()\n            out",
        T_ATTEMPTS,
    ),
    "retry-after-first-byte": Mutant(
        ATTEMPTS, "            if call.trip.delivered:\n", "            if False:\n", T_ATTEMPTS
    ),
    "same-replica-again": Mutant(
        ATTEMPTS,
        "query = msgspec.structs.replace(query, exclude=frozenset(trip.tried))",
        "pass",
        T_ATTEMPTS,
    ),
    "retry-a-clients-mistake": Mutant(ASKING, "(400, 409, 413, 422)", "(409, 413, 422)", T_ATTEMPTS),
    "blame-for-a-deadline": Mutant("gateway/judging.py", " or now_s >= call.deadline_s", "", T_ATTEMPTS),
    "clean-end-of-a-cut-stream": Mutant(
        "gateway/openai/events.py",
        'Raises StreamBroken if it came early."""',
        'Raises StreamBroken if it came early."""\n        return DONE',
        T_FAULTS,
    ),
    "settle-twice": Mutant(
        "gateway/tenancy/charge.py",
        "        self._billing.settle(self, status)\n",
        "        self._billing.settle(self, status)\n        self._billing.settle(self, status)\n",
        T_LEDGER,
    ),
    "usage-for-everybody": Mutant(
        "gateway/openai/events.py", "if not self._include_usage:", "if False:", T_STREAMS
    ),
    "nobody-watches-the-client": Mutant(
        "gateway/api/inference.py",
        "        wire.on_leave(exchange.abort.leave)",
        "        pass",
        T_DISCONNECTS,
    ),
    "the-end-is-a-leaving": Mutant(WIRE, " and not self._answered.response_complete", "", T_WIRE),
    "heartbeat-for-buffered": Mutant(
        PIPELINE,
        "        if request.stream:\n            out.accept",
        "        if True:\n            out.accept",
        T_STREAMS,
    ),
    "left-while-saying-farewell": Mutant(EXCHANGE, "        self.abort.task = None\n", "", T_EXCHANGE),
    "heartbeat-within-data": Mutant(EXCHANGE, "if not spoken and not", "if not", T_EXCHANGE),
    "endless-farewell": Mutant(EXCHANGE, "FAREWELL_S = 1.0", "FAREWELL_S = 1000.0", T_EXCHANGE),
    "no-withdraw": Mutant(DISPATCHER, " and not line.scheduler.withdraw(ticket)", "", T_DISPATCHER),
    "crossed-grant-is-lost": Mutant(
        DISPATCHER, "line.undo(granted.result()[0])  # the grant", "pass  # the grant", T_DISPATCHER
    ),
    "picky-grant-is-lost": Mutant(LINE, " or self.place(anywhere, draw, now_s)", "", T_DISPATCHER),
    "no-wake-up": Mutant(
        DISPATCHER,
        "            if len(desk.line.scheduler):\n                self._grant(desk)",
        "",
        T_DISPATCHER,
    ),
    "displaced-waits-for-ever": Mutant(
        DISPATCHER, "            self._turn_away(desk, displaced)", "            pass", T_DISPATCHER
    ),
    "retry-after-without-slots": Mutant(
        SCHEDULER, "(self._held_s or 0.0) / max(1, slots)", "self._held_s or 0.0", T_SCHEDULER
    ),
    "credit-for-absence": Mutant(
        SCHEDULER,
        "max(self._served.get(name, 0.0), self._floor)",
        "self._served.get(name, 0.0)",
        T_SCHEDULER,
    ),
    "no-ageing": Mutant(SCHEDULER, "self._aged(now_s) or self._first()", "self._first()", T_SCHEDULER),
    "marks-without-salt": Mutant(
        "routing/prefixes.py", "blake2b(salt, digest", "blake2b(digest", "tests/unit/test_prefixes.py"
    ),
    "a-bad-input-fails-all": Mutant(
        BATCHING, "except (UpstreamRefused, StreamBroken):", "except KeyError:", T_BATCHING
    ),
    "joined-for-nobody": Mutant(
        BATCHING, "            batch.task.cancel()\n", "            pass\n", T_BATCHING
    ),
    "stale-for-ever": Mutant(PLAIN, "stale = True  #", "stale = False  #", T_PLAIN),
    "no-back-pressure": Mutant(
        CONNECTION, "self.buffered_bytes > PAUSE_ABOVE_BYTES", "self.buffered_bytes < 0", T_PLAIN
    ),
    "permit-leak": Mutant(
        PLAIN,
        "        except BaseException:\n            origin.give_back()\n            raise",
        "        except BaseException:\n            raise",
        T_PLAIN,
    ),
    "answers-mixed-up": Mutant(
        CONNECTION, "        if self.complete:  # what comes", "        if False:  # what comes", T_PLAIN
    ),
    "silence-for-ever": Mutant(
        PLAIN, "if now_s > min(until_s, connection.deadline_s) and", "if now_s < 0 and", T_PLAIN
    ),
    "pipelined-leaver-unnoticed": Mutant(
        WIRE, "            self._answered.left()\n", "            pass\n", T_DISCONNECTS
    ),
    "breaker-never-opens": Mutant(FLEET, "return enough or (", "return False or (", T_REPLICA),
    "no-back-off": Mutant(FLEET, " and now_s < replica.readmit_at_s:", " and now_s < 0:", T_REPLICA),
    "no-trial": Mutant(FLEET, "trust=1 if replica.phase is", "trust=0 if replica.phase is", T_REPLICA),
    "no-slow-start": Mutant(
        FLEET, "return 2 * trust if 2 * trust < max", "return 0 if trust < max", T_REPLICA
    ),
    "retries-without-budget": Mutant(
        ATTEMPTS, "isinstance(error, ConnectFailed | Withdrawn) or restraint.may_retry()", "True", T_ATTEMPTS
    ),
    "budget-that-never-grows": Mutant(RESTRAINT, "self.share * (count - self._counted)", "0.0", T_ATTEMPTS),
    "hedges-without-budget": Mutant(
        ATTEMPTS, "if not restraint.may_hedge(call.hedge):", "if False:", T_ATTEMPTS
    ),
    "loser-computes-on": Mutant(
        ATTEMPTS,
        "        if reply is not None:\n            reply.close()\n        this.ended_s = self.now()\n",
        "        this.ended_s = self.now()\n",
        T_SIMULATED,
    ),
    "loser-keeps-its-slot": Mutant(
        ATTEMPTS,
        '        slot.release()\n        self._judge.count(call, this, "lost")',
        '        self._judge.count(call, this, "lost")',
        T_ATTEMPTS,
    ),
    "nobody-is-left-alone": Mutant(
        "gateway/judging.py", "            if wait_s:\n", "            if False:\n", T_ATTEMPTS
    ),
    "killed-one-by-one": Mutant(ATTEMPTS, "MOST_DEATHS = 2", "MOST_DEATHS = 200", T_ATTEMPTS),
    "the-innocent-are-ejected": Mutant(
        "gateway/judging.py",
        "elif trip.held or trip.breaks or trip.barren or self.suspected(call):",
        "elif False:",
        T_ATTEMPTS,
    ),
    "seam-unseen": Mutant(HEARD, "if not self._skipped.startswith(seen) or (", "if (", T_CONTINUATION),
    "replay-unseen": Mutant(
        HEARD, "        if not text.startswith(expected):\n", "        if False:\n", T_CONTINUATION
    ),
    "words-twice": Mutant(HEARD, "rest = text[len(expected) :]", "rest = text", T_SIMULATED),
    "half-a-character": Mutant(CARRYING, " and not read.endswith(UNFINISHED)", "", T_CONTINUATION),
    "ahead-of-the-text": Mutant(CARRYING, "if text.startswith(read) and", "if", T_CONTINUATION),
    "as-many-tokens-again": Mutant(CARRYING, "limit - kept)", "limit)", T_CONTINUATION),
    "usage-of-the-rest-only": Mutant(
        HEARD,
        'completion_tokens = (usage.get("completion_tokens") or 0) + before_tokens',
        'completion_tokens = usage.get("completion_tokens") or 0',
        T_SIMULATED,
    ),
    "a-slot-for-each-leg": Mutant(
        ATTEMPTS,
        "            self._blame(call, this, error)\n            raise\n        finally:\n"
        "            slot.release()\n\n\ndef _both",
        "            self._blame(call, this, error)\n            raise\n\n\ndef _both",
        T_SIMULATED,
    ),
    "unwanted-is-asked-on": Mutant(
        LINE, "if one.id not in resting] or servers", "] or servers", T_DISPATCHER
    ),
    "no-patience-for-a-replica": Mutant(
        DISPATCHER, "if desk is None or self.now() >= until_s:", "if True:", T_DISPATCHER
    ),
    "new-work-while-draining": Mutant(
        "gateway/api/inference.py", "            if process.draining:\n", "            if False:\n", T_DRAIN
    ),
    "a-bottomless-pot": Mutant(
        "routing/objectives.py", "left = min(POT, max(-POT, total - kept))", "left = total - kept", T_TOGETHER
    ),
    "tiers-apart": Mutant(
        "routing/objectives.py", "tier > 0 or place < least", "place < least", T_OBJECTIVES
    ),
    "a-tier-too-dear-for-ever": Mutant(
        "routing/objectives.py", "costs[other] = guessed[other] * self._dearer", "pass", T_OBJECTIVES
    ),
    "no-belief-in-the-order": Mutant(
        "routing/feedback.py", "_TRUST * gain.std() / 2.0", "0.0", "tests/unit/test_labels.py"
    ),
    "kept-for-any-wish": Mutant(
        "gateway/shelf.py", "        if wished:\n", "        if False:\n", T_KEPT_TIERS
    ),
    "a-kept-answer-lowers": Mutant(
        PIPELINE, "if self._chooser.falls_to(entry.model", "if False and (entry.model", T_KEPT_TIERS
    ),
    "a-kept-answer-has-no-tier": Mutant(
        PIPELINE, "        self._chooser.answered_by(entry.model, target, request, key)\n", "", T_KEPT_TIERS
    ),
    "apart-though-together": Mutant(
        "gateway/together.py", "        await self._share_out(named)\n", "", T_TOGETHER
    ),
    "a-reset-until-the-restart": Mutant(
        "gateway/lessons.py", '"from_id": max(newest or 0, at)', '"from_id": at', T_LEARNING
    ),
    "a-reset-for-one": Mutant("gateway/lessons.py", '{"in_force": False, "was', '{"was', T_LEARNING),
    "any-language": Mutant(
        "gateway/choosing.py", "if asked and not speaks(settings.languages, asked):", "if False:", T_CHOOSING
    ),
    "minutes-of-forgotten-days": Mutant(
        "gateway/tenancy/minutes.py",
        "if begins(connection) * DAY_MINUTES * UNIT_S <= span[0]:",
        "if True:",
        T_MINUTES,
    ),
    "minutes-of-each-alone": Mutant(
        "gateway/tenancy/ledger.py", "for whose in (org, minutes.ALL):", "for whose in (org,):", T_MINUTES
    ),
    "half-a-day-proved": Mutant(
        "gateway/tenancy/reconcile.py",
        "since_s = since_s // DAY_S * DAY_S",
        "since_s = max(0.0, since_s)",
        "tests/integration/test_money.py",
    ),
    "head-without-limit": Mutant(WIRE, "if self._head_bytes > HEAD_LIMIT_BYTES:", "if False:", T_EDGES),
    # ---- a stream's short way past ``Deliver``
    "short-way-into-a-full-pipe": Mutant(DELIVERY, "if not lane.clear:", "if False:", T_SIMULATED),
    "short-way-past-the-end": Mutant(DELIVERY, """ or b"[DONE]" in data""", "", T_STREAMS),
    "short-way-past-the-money": Mutant(
        DELIVERY, "return most < charge.covered_tokens", "return True", T_MONEY
    ),
    "short-way-past-the-bill": Mutant(
        DELIVERY, "                charge.delivers(receiver.delivered_tokens)\n", "", T_DISCONNECTS
    ),
    "short-way-past-the-cache": Mutant(
        DELIVERY, "                if receiver.kept is not None:\n", "                if False:\n", T_LEDGER
    ),
    "short-way-without-a-trail": Mutant(
        ATTEMPTS, "call.direct(feed, call.trail)", "call.direct(receiver.feed, call.trail)", T_SIMULATED
    ),
    "alike-past-the-trail": Mutant(
        DELIVERY, "                trail.hold(data)\n", "                pass\n", T_SIMULATED
    ),
    "alike-past-the-money": Mutant(
        DELIVERY, " and receiver.delivered_tokens + 1 < charge.covered_tokens", "", T_MONEY
    ),
    "alike-into-a-heartbeat": Mutant(
        "gateway/api/exchange.py", "            self._wire.held = True\n", "", "tests/unit/test_exchange.py"
    ),
    "what-a-taker-leaves-is-lost": Mutant(
        CONNECTION,
        "                self.wake()\n                return\n",
        "                self.wake()\n",
        T_PLAIN,
    ),
    "what-a-taker-raises-is-lost": Mutant(
        CONNECTION,
        "            self.error = error\n            self.wake()",
        "            self.wake()",
        T_PLAIN,
    ),
    # ---- the second of two
    "hedged-on-the-same-replica": Mutant(
        ATTEMPTS,
        "exclude=frozenset(call.trip.tried))\n        slot = self._dispatcher.slot_beside(",
        "exclude=frozenset())\n        slot = self._dispatcher.slot_beside(",
        T_ATTEMPTS,
    ),
    "the-loser-signs": Mutant(
        ATTEMPTS,
        "        call.trip.tried.remove(serving)\n        call.trip.tried.append(serving)\n",
        "",
        T_ATTEMPTS,
    ),
    "everybody-is-late": Mutant(
        RESTRAINT, "self._sorted[min(int(quantile * count), count - 1)]", "self._sorted[0]", T_ATTEMPTS
    ),
    # ---- versions
    "shares-unheeded": Mutant(POLICIES, "        aim -= drawn.weight\n", "        aim -= 1.0\n", T_POLICIES),
    "the-wanted-version-unheeded": Mutant(POLICIES, "if query.version and (", "if False and (", T_POLICIES),
    "gone-on-by-another-version": Mutant(
        LINE, "[one for one in self.servers if one.version == version]", "list(self.servers)", T_DISPATCHER
    ),
    # ---- the line's deadlines and refusals
    "deadline-forgotten-in-line": Mutant(
        DISPATCHER,
        "until_s = min(deadline_s, now_s + patience.queue_s)",
        "until_s = now_s + patience.queue_s",
        T_DISPATCHER,
    ),
    "granted-to-who-has-gone": Mutant(
        SCHEDULER, "in_time = ticket.deadline_s >= now_s", "in_time = True", T_SCHEDULER
    ),
    "never-shed": Mutant(SCHEDULER, "if expected_s > patience_s:", "if False:", T_SCHEDULER),
    "come-again-at-once": Mutant(
        SCHEDULER, "max(expected_s - patience_s, self._turn_s(slots))", "self._turn_s(slots)", T_SCHEDULER
    ),
    "come-again-untold": Mutant(
        ASKING,
        "return RateLimited(refusal.message, retry_after_s=refusal.retry_after_s)",
        "return RateLimited(refusal.message)",
        T_ATTEMPTS,
    ),
    "asked-while-all-rest": Mutant(ATTEMPTS, "self._dispatcher.rests_s(call.model))", "0.0)", T_ATTEMPTS),
    "throttled-for-ever": Mutant(
        FLEET, "return on_trial or replica.throttled >= EJECT_AFTER_THROTTLED", "return on_trial", T_REPLICA
    ),
    "the-engine-knows-no-bands": Mutant(
        CALLS, "priority=engine_priority(band, request.priority)", "priority=request.priority or 0", T_FLEET
    ),
    "a-client-pushes-forward": Mutant(
        "gateway/bands.py",
        "max(own, TIERS.get(tier, own))",
        "TIERS.get(tier, own)",
        "tests/unit/test_bands.py",
    ),
    # ---- fallback and hand-over
    "fallback-after-the-first-byte": Mutant(
        PIPELINE, "hopeless = call.trip.delivered or ", "hopeless = ", T_FAULTS
    ),
    "no-fallback": Mutant(
        "gateway/choosing.py",
        "spare = next((model for model in allowed if self._fleet.ready(model.name)), None)",
        "spare = None",
        T_FAULTS,
    ),
    "no-hand-over": Mutant(
        SUPERVISOR, "            await self._hand_over(id_, until_s)\n", "            pass\n", T_DRAIN
    ),
    # ---- who gets it
    "affinity-without-bounds": Mutant(
        POLICIES, "near = _bounded(candidates)", "near = candidates", T_POLICIES
    ),
    "no-home-for-a-prompt": Mutant(
        POLICIES,
        "return max(near, key=lambda one: _affinity(query.prefix[0], one))",
        "return near[0]",
        T_POLICIES,
    ),
    "lengths-without-bounds": Mutant(
        POLICIES,
        "_least(query, _bounded(candidates), distance)",
        "_least(query, candidates, distance)",
        T_POLICIES,
    ),
    "lengths-unheeded": Mutant(
        POLICIES,
        "return abs(math.log((query.prompt_tokens + 1) / (mean + 1)))",
        "return 0.0 * mean",
        T_POLICIES,
    ),
    "warmth-unheeded": Mutant(
        POLICIES, "own = query.prompt_tokens - one.cached_tokens", "own = query.prompt_tokens", T_POLICIES
    ),
    "who-hangs-looks-idle": Mutant(LINE, "min(done / ahead, 2.0)", "done / ahead", T_LINE),
    "work-under-way-is-never-done": Mutant(
        LINE, "    done = (now_s - load.under_way_s) / load.pace_s\n", "    done = 0.0\n", T_LINE
    ),
}

NONE_COLLECTED = 5  # pytest's exit status


def passes(tests: str, mutant: Mutant | None = None) -> bool:
    """Tell whether the tests pass in a copy of the tree, with the mutant in it."""
    with tempfile.TemporaryDirectory() as where:
        copy = Path(where)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
                )
            else:
                shutil.copy(source, copy / name)
        if mutant is not None:
            changed = copy / mutant.path
            text = changed.read_text()
            assert text.count(mutant.old) == 1, f"{mutant.path} does not have {mutant.old!r} once"
            changed.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests, "-m"]
        for which in ("not soak", "soak"):
            done = subprocess.run([*command, which], cwd=copy, capture_output=True, text=True, timeout=300)
            if done.returncode != NONE_COLLECTED:
                break
        assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
        return done.returncode == 0


def main(names: list[str]) -> int:
    """Try the named mutants, or all; gives the number of survivors."""
    tried = {name: MUTANTS[name] for name in names or MUTANTS}
    for tests in sorted({mutant.tests for mutant in tried.values()}):
        assert passes(tests), f"{tests} fails without any mutant"
    alive = 0
    for name, mutant in tried.items():
        survived = passes(mutant.tests, mutant)
        print(f"{name}: {'SURVIVED' if survived else 'killed'}", flush=True)
        alive += survived
    return alive


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
