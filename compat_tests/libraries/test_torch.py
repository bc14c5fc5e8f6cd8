"""torch's ``DataLoader(multiprocessing_context=...)`` makes processes, queues and events from the context."""

from __future__ import annotations

from compat_tests.libraries.availability import require

torch = require("torch")


class Squares(torch.utils.data.Dataset):
    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.tensor([index, index * index])


def batches(**options):
    return [batch.tolist() for batch in torch.utils.data.DataLoader(Squares(), batch_size=8, **options)]


def test_data_loader_with_context(multiprocessing, start_method):
    context = multiprocessing.get_context(start_method)
    assert batches(num_workers=2, multiprocessing_context=context) == batches()


def test_data_loader_with_name_of_start_method(start_method):
    import distpool.multiprocessing  # noqa: F401 - registers the start method

    assert batches(num_workers=2, multiprocessing_context=start_method) == batches()


def test_tensors_through_pool(multiprocessing):
    with multiprocessing.Pool(2) as pool:
        results = pool.map(torch.square, [torch.arange(4) + i for i in range(4)])
    assert all(torch.equal(result, torch.square(torch.arange(4) + i)) for i, result in enumerate(results))
