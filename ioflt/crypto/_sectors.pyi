from typing import Any

class _Lib:
    def ioflt_sectors(self, key: object, data: object, count: int, sector: int, action: int, /) -> int: ...
    def ioflt_tags(
        self, key: object, uuid: object, data: object, count: int, first: int, tags: object, /
    ) -> int: ...
    def ioflt_tags_begin(
        self, key: object, uuid: object, data: object, count: int, first: int, tags: object, /
    ) -> object: ...
    def ioflt_tags_end(self, job: object, drop: bool, /) -> int: ...

lib: _Lib
ffi: Any
