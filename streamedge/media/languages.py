"""Compares language codes: ISO 639-1 ("de"), 639-2/T ("deu") and 639-2/B ("ger"). Pure.

Sources: ISO 639-2 code tables; QuickTime File Format, "Language Code Values".
"""

from __future__ import annotations

from typing import Final

UNDETERMINED: Final = "und"

_TWO_LETTERS: Final = (
    "aa:aar ab:abk ae:ave af:afr ak:aka am:amh an:arg ar:ara as:asm av:ava ay:aym az:aze "
    "ba:bak be:bel bg:bul bi:bis bm:bam bn:ben bo:bod br:bre bs:bos ca:cat ce:che ch:cha "
    "co:cos cr:cre cs:ces cu:chu cv:chv cy:cym da:dan de:deu dv:div dz:dzo ee:ewe el:ell "
    "en:eng eo:epo es:spa et:est eu:eus fa:fas ff:ful fi:fin fj:fij fo:fao fr:fra fy:fry "
    "ga:gle gd:gla gl:glg gn:grn gu:guj gv:glv ha:hau he:heb hi:hin ho:hmo hr:hrv ht:hat "
    "hu:hun hy:hye hz:her ia:ina id:ind ie:ile ig:ibo ii:iii ik:ipk io:ido is:isl it:ita "
    "iu:iku ja:jpn jv:jav ka:kat kg:kon ki:kik kj:kua kk:kaz kl:kal km:khm kn:kan ko:kor "
    "kr:kau ks:kas ku:kur kv:kom kw:cor ky:kir la:lat lb:ltz lg:lug li:lim ln:lin lo:lao "
    "lt:lit lu:lub lv:lav mg:mlg mh:mah mi:mri mk:mkd ml:mal mn:mon mr:mar ms:msa mt:mlt "
    "my:mya na:nau nb:nob nd:nde ne:nep ng:ndo nl:nld nn:nno no:nor nr:nbl nv:nav ny:nya "
    "oc:oci oj:oji om:orm or:ori os:oss pa:pan pi:pli pl:pol ps:pus pt:por qu:que rm:roh "
    "rn:run ro:ron ru:rus rw:kin sa:san sc:srd sd:snd se:sme sg:sag si:sin sk:slk sl:slv "
    "sm:smo sn:sna so:som sq:sqi sr:srp ss:ssw st:sot su:sun sv:swe sw:swa ta:tam te:tel "
    "tg:tgk th:tha ti:tir tk:tuk tl:tgl tn:tsn to:ton tr:tur ts:tso tt:tat tw:twi ty:tah "
    "ug:uig uk:ukr ur:urd uz:uzb ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho yi:yid yo:yor "
    "za:zha zh:zho zu:zul"
)
_BY_TWO_LETTERS: Final = dict(pair.split(":") for pair in _TWO_LETTERS.split())
# The bibliographic codes that differ from the terminological ones.
_BIBLIOGRAPHIC: Final = {
    "alb": "sqi", "arm": "hye", "baq": "eus", "bur": "mya", "chi": "zho", "cze": "ces",
    "dut": "nld", "fre": "fra", "geo": "kat", "ger": "deu", "gre": "ell", "ice": "isl",
    "mac": "mkd", "mao": "mri", "may": "msa", "per": "fas", "rum": "ron", "slo": "slk",
    "tib": "bod", "wel": "cym",
}  # fmt: skip
# The codes of QuickTime's first language numbers.
_QUICKTIME_CODES: Final = (
    "eng fra deu ita nld swe spa dan por nor heb jpn ara fin ell isl mlt tur hrv zho urd hin "
    "tha kor lit pol hun est lav sme fao fas rus zho nld gle sqi ron ces slk slv yid srp mkd "
    "bul ukr bel uzb kaz aze aze hye kat ron kir tgk tuk mon mon pus kur kas snd bod nep san "
    "mar ben asm guj pan ori mal kan tam tel sin mya khm lao vie ind tgl msa msa amh tir orm "
    "som swa kin run nya mlg epo"
)
_QUICKTIME: Final = tuple(_QUICKTIME_CODES.split())
_PACKED_MIN: Final = 0x400  # smaller numbers are QuickTime's


def canonical_language(tag: str) -> str:
    """The ISO 639-2/T code of a code or BCP 47 tag ("ger", "de", "de-CH": "deu"), in lower case.

    A code that is in none of the tables is returned as it is.
    """
    code = tag.strip().lower().replace("_", "-").partition("-")[0]
    return _BY_TWO_LETTERS.get(code) or _BIBLIOGRAPHIC.get(code, code)


def packed_language(number: int) -> str:
    """The language in the field of an MP4's ``mdhd`` box: three letters of 5 bits each, or a number
    of QuickTime's. "und" for anything else.
    """
    if number < _PACKED_MIN:
        return _QUICKTIME[number] if number < len(_QUICKTIME) else UNDETERMINED
    code = "".join(chr(0x60 + (number >> shift & 31)) for shift in (10, 5, 0))
    return code if code.isalpha() and code.isascii() else UNDETERMINED
