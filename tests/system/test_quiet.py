import threading
import warnings

from headstart.system.quiet import quiet


def test_threads_that_overlap_leave_the_filters_as_they_were():
    first_in, second_in, first_out = (threading.Event() for _ in range(3))

    def first():
        with quiet():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    def second():
        first_in.wait(10)
        with quiet():
            second_in.set()
            first_out.wait(10)
            warnings.warn("unheard", stacklevel=1)

    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        inside = list(warnings.filters)
        threads = [threading.Thread(target=one) for one in (first, second)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert list(warnings.filters) == inside
        warnings.warn("heard", stacklevel=1)
    assert [str(one.message) for one in heard] == ["heard"]
    assert list(warnings.filters) == before
