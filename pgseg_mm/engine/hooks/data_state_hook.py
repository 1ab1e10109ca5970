"""What a run has read, kept in its checkpoints, so that a resumed run reads on from there.

torchdata's ``StatefulDataLoader`` is not used. By its documentation it keeps the state of one
process: of its workers, not across ranks, whose states would have to be collected all the same. The
state would still be that of our sampler and streams: left to itself it goes through what was read
before again. And MMEngine's Runner builds torch's own ``DataLoader``. So seeds and places travel
with the samples here, and no loader has a state.
"""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmseg.registry import HOOKS

from pgseg_mm.datasets.sampling.sample_key import READ_RECORD, ReadRecord
from pgseg_mm.datasets.sampling.samplers import ResumableSampler
from pgseg_mm.errors import PreflightError, UnusableDataError
from pgseg_mm.messages import shown
from pgseg_mm.serialization.loading import CheckpointError

from .read_counts import ReadCounts

DATA_STATE = 'data_state'
"""Key of what this hook keeps in a checkpoint."""


def read_records(data_batch: Any) -> list[ReadRecord | None]:
    """For each sample of a batch what reading it took, ``None`` where the data set does not say."""
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    return [sample.get(READ_RECORD) for sample in samples]


@HOOKS.register_module()
class DataStateHook(Hook):
    """Counts what is read and skipped, and lets a resumed run read on where it was interrupted.

    Counts are those of the batches that were trained on, over all ranks and over all the runs that
    a run continues. They are logged at the logger's interval and kept in each checkpoint. Beside
    them it has the sampler's seed, how far the epoch had come, and where each stream of each rank
    stood; :class:`SafeCheckpointHook` collects these from all ranks. A resumed run does not decode
    anything that was trained on before.

    With a map-style data set, another number of ranks, workers or samples a batch goes on with the
    same order of samples. With streams that is exact for the same numbers only, and a warning says
    what becomes different.

    Args:
        max_skipped: Largest share of skipped samples; a larger one ends the run.
        min_samples: Samples, read or skipped, before that share counts.

    Raises:
        RuntimeError: If too large a share of the samples was skipped.
        ValueError: If sampler, loop and checkpoint hook do not fit each other.
    """

    # before LoggerHook and CheckpointHook
    priority = 'NORMAL'

    def __init__(self, max_skipped: float = 0.1, min_samples: int = 1000) -> None:
        self.max_skipped = max_skipped
        self.min_samples = min_samples
        self.counts = ReadCounts()
        """Of this rank, since the run was started or resumed."""
        self.streams: dict[int, dict[str, Any]] = {}
        """Where the streams of this rank stand, by their number."""
        self.epoch = 0
        self.consumed = 0
        """Samples of this epoch that all ranks together have been trained on."""
        self.next_worker = 0
        """The stream that the next batch is read from."""
        self._earlier: dict[str, dict[str, Any]] = {}
        self._loaded: dict[str, Any] | None = None
        self._gathered: list[tuple[dict, dict]] = []
        self._logged = (-1, '')

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the state of the data for a run that turns out to be a resumed one."""
        self._loaded = checkpoint.get(DATA_STATE)
        if runner._resume and self._loaded is not None:
            _check_state(self._loaded)

    def before_train(self, runner: Runner) -> None:
        """Check that the parts fit each other, and go on where an interrupted run stood."""
        self._check_parts(runner)
        self.epoch = runner.epoch
        if runner.iter > 0:
            self._resume(runner)
        self._loaded = None

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell a stream where to begin, before the loader copies it into its workers."""
        if runner.epoch != self.epoch:
            self.epoch, self.consumed, self.next_worker = runner.epoch, 0, 0
        loader = runner.train_dataloader
        if getattr(loader.dataset, 'is_stream', False):
            sampler = loader.sampler
            loader.dataset.set_progress(
                batch_size=loader.batch_size,
                states=dict(self.streams),
                seed=getattr(sampler, 'seed', None),
                epoch=None if getattr(sampler, 'infinite', False) else runner.epoch,
                begin=getattr(sampler, 'num_skipped', 0),
                first_worker=self.next_worker,
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Count the batch; at the logger's interval, sum over ranks and check the limit."""
        records = read_records(data_batch)
        loader = runner.train_dataloader
        for record in records:
            if record is None:
                self.counts.add_read('data')
                continue
            self.counts.add_record(record)
            if record.state is not None:
                self.streams[record.worker] = record.state
                self.next_worker = (record.worker + 1) % max(loader.num_workers, 1)
        self.consumed += (len(records) or loader.batch_size or 1) * get_world_size()
        interval = next((h.interval for h in runner.hooks if isinstance(h, LoggerHook)), 0)
        if self.every_n_inner_iters(batch_idx, interval) or self.end_of_epoch(loader, batch_idx):
            total = self._total(all_gather_object(self.counts.to_dict()))
            runner.message_hub.update_scalar('train/samples_read', total.num_read)
            runner.message_hub.update_scalar('train/samples_skipped', total.num_skipped)
            if total.num_skipped != self._logged[0]:
                self._log(runner, total)
            self._check_limit(total)

    def gather_for_checkpoint(self, runner: Runner) -> None:
        """Collect counts and streams of all ranks; called on each of them before one saves."""
        self._gathered = all_gather_object((self.counts.to_dict(), self.streams))
        self._check_limit(self._total([counts for counts, _ in self._gathered]))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the state of the data into the checkpoint."""
        gathered = self._gathered or [(self.counts.to_dict(), self.streams)]
        total = self._total([counts for counts, _ in gathered])
        self._log(runner, total)
        # a checkpoint at the end of an epoch by epochs counts this epoch as over
        within = checkpoint['meta']['epoch'] == self.epoch
        loader = runner.train_dataloader
        checkpoint[DATA_STATE] = {
            'seed': getattr(loader.sampler, 'seed', None),
            'epoch': checkpoint['meta']['epoch'],
            'consumed': self.consumed if within else 0,
            'layout': self._layout(runner),
            'streams': [streams for _, streams in gathered],
            'counts': total.to_dict(),
        }
        if getattr(loader.dataset, 'is_stream', False):
            checkpoint[DATA_STATE]['next_worker'] = self.next_worker if within else 0

    def after_train(self, runner: Runner) -> None:
        """Log the counts of the whole run."""
        self._log(runner, self._total(all_gather_object(self.counts.to_dict())))

    def _check_parts(self, runner: Runner) -> None:
        loop, sampler = runner.train_loop, runner.train_dataloader.sampler
        if not isinstance(sampler, ResumableSampler):
            runner.logger.warning(
                f'The sampler is a {type(sampler).__name__}: a run that is resumed within an epoch '
                'will not read what it would have read; use ResumableSampler.'
            )
            return
        if isinstance(loop, EpochBasedTrainLoop) == sampler.infinite:
            wanted = not sampler.infinite
            raise PreflightError(
                f'{type(loop).__name__} needs a ResumableSampler with infinite={wanted}, this one '
                f'has infinite={sampler.infinite}'
            )
        iterator = getattr(loop, 'dataloader_iterator', None)
        if type(loop) is IterBasedTrainLoop and not hasattr(iterator, 'skip_iter'):
            raise PreflightError(
                'the IterBasedTrainLoop of this mmengine loads all batches again that a resumed '
                "run has been trained on; use train_cfg=dict(type='ResumableIterLoop', ...)"
            )
        if get_world_size() > 1 and not any(hasattr(h, 'saves_all_ranks') for h in runner.hooks):
            raise PreflightError(
                'checkpoints need the state of all ranks; use '
                "default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', ...))"
            )

    def _resume(self, runner: Runner) -> None:
        sampler, loader = runner.train_dataloader.sampler, runner.train_dataloader
        state, layout = self._loaded, self._layout(runner)
        if state is None:
            runner.logger.warning(
                'The checkpoint says nothing of the data (it has no data_state): the order of the '
                'samples is another one than before, and the counts begin anew.'
            )
            done = runner.iter - runner.epoch * len(loader)
            self.consumed = done * (layout['batch_size'] or 1) * layout['ranks']
        else:
            self.epoch, self.consumed = state['epoch'], state['consumed']
            self._earlier = state['counts']
        if isinstance(sampler, ResumableSampler):
            if state is not None and state['seed'] is not None:
                sampler.seed = state['seed']
            sampler.begin_at(self.epoch, self.consumed)
        if state is None or not getattr(loader.dataset, 'is_stream', False):
            return
        before = state['layout']
        changed = [
            f'{name} {before[name]} -> {layout[name]}'
            for name in layout
            if layout[name] != before[name]
        ]
        if changed:
            runner.logger.warning(self._describe_change(changed))
        if all(before[name] == layout[name] for name in ('ranks', 'workers')):
            self.streams = dict(state['streams'][get_rank()])
            read = state['consumed'] // before['ranks'] // (before['batch_size'] or 1)
            workers = max(before['workers'], 1)
            self.next_worker = state.get('next_worker', read) % workers

    @staticmethod
    def _describe_change(changed: list[str]) -> str:
        return (
            f'The run is resumed with {", ".join(changed)}: the streams of shards cannot go on '
            'exactly. With other ranks or workers, shards are dealt out anew and begin from their '
            'beginning, so that samples of this epoch may be read twice or not at all; with '
            'another batch size alone, each stream goes on, but in other batches.'
        )

    @staticmethod
    def _layout(runner: Runner) -> dict[str, int]:
        loader = runner.train_dataloader
        return {
            'ranks': get_world_size(),
            'workers': loader.num_workers,
            'batch_size': loader.batch_size,
        }

    def _total(self, parts: list[dict[str, dict[str, Any]]]) -> ReadCounts:
        return ReadCounts.total([self._earlier, *parts])

    def _log(self, runner: Runner, total: ReadCounts) -> None:
        text = f'Samples: {total}'
        if text != self._logged[1]:
            runner.logger.info(text)
            self._logged = total.num_skipped, text

    def _check_limit(self, total: ReadCounts) -> None:
        if total.num_read + total.num_skipped < self.min_samples:
            return
        if total.share_skipped > self.max_skipped:
            raise UnusableDataError(
                f'{total.share_skipped:.1%} of the samples were skipped, more than '
                f'max_skipped={self.max_skipped:.1%} of DataStateHook. {total}. Check the data '
                '(tools/dataset_converters/verify_shards.py), or raise the limit.'
            )


def _check_state(state: dict[str, Any]) -> None:
    """Refuse what no run has saved.

    Raises:
        CheckpointError: If a part is missing or of another kind.
    """

    def is_count(value: Any) -> bool:
        return type(value) is int and 0 <= value < 2**48

    try:
        layout, seed, streams = state['layout'], state['seed'], state['streams']
        sound = (
            all(is_count(state[name]) for name in ('epoch', 'consumed'))
            and (seed is None or is_count(seed))
            and is_count(state.get('next_worker', 0))
            and all(is_count(layout[name]) for name in ('ranks', 'workers'))
            and (layout['batch_size'] is None or is_count(layout['batch_size']))
            and isinstance(streams, list)
            and all(isinstance(of_rank, dict) for of_rank in streams)
            and len(streams) == layout['ranks']
        )
        ReadCounts(state['counts'])
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f'the checkpoint is damaged: its {DATA_STATE} lacks {shown(error)}, or has something '
            'else in its place'
        ) from error
    if not sound:
        raise CheckpointError(f'the checkpoint is damaged: its {DATA_STATE} is none of a run')
