from killed_runs import last_checkpoint, train, write_config
from shard_zoo import write_damaged_shards


def test_damaged_shards_train_to_the_end_and_the_checkpoint_has_the_exact_counts(tmp_path):
    _, good, expected = write_damaged_shards(tmp_path / 'data', shards=5)
    config = write_config(
        tmp_path / 'run' / 'config.py', tmp_path / 'data', workers=0, by_epoch=True, shards=True
    )
    # Everything once, and one more: what is skipped at the end comes to light with what follows it.
    samples = len(good) + 1
    options = {
        'train_dataloader.dataset.samples_per_epoch': samples,
        'train_dataloader.dataset.shuffle_block': 1,
        'train_dataloader.batch_size': samples // 2,
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint.interval': 1,
    }
    arguments = [f'{key}={value}' for key, value in options.items()]
    done = train(config, tmp_path / 'run', '--cfg-options', *arguments)

    assert done.returncode == 0, done.stderr
    assert samples % 2 == 0
    counts = last_checkpoint(tmp_path / 'run')['data_state']['counts']
    assert counts == {'noise': {'read': samples, 'skipped': expected}}
    assert f'noise: {samples} read, {sum(expected.values())} skipped' in done.stdout
