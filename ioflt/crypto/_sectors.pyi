from typing import Any

class _Lib:
    def ioflt_sectors(self, key: object, data: object, count: int, sector: int, action: int, /) -> int: ...
    def ioflt_tags(
        self, key: object, uuid: object, data: object, count: int, first: int, tags: object, /
    ) -> int: ...

lib: _Lib
ffi: Any
