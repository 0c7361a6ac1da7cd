//! Calendar time in UTC.

/// A point in time as a calendar and a clock on the wall show it, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// Year of the Gregorian calendar.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 59.
    pub second: i64,
}

impl Utc {
    /// The time `secs` seconds after the Unix epoch.
    pub fn at(secs: i64) -> Utc {
        let (days, of_day) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        // Days are counted from 1 March of year 0, so that the leap day ends a year; eras of 400 years repeat.
        let days = days + 719_468;
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Utc {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: of_day / 3_600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
        }
    }

    /// Seconds after the Unix epoch of a time as ISO 8601 has it, `2030-01-31T23:59:59+00:00`: the zone must be there
    /// (`Z`, or hours and minutes), `T` may be a space, and a fraction of a second is dropped.
    pub fn parse(text: &str) -> Option<i64> {
        let (date, rest) = (text.get(..10)?, text.get(11..)?);
        if !matches!(text.as_bytes().get(10), Some(b'T' | b' ')) {
            return None;
        }
        let number = |text: &str, at: std::ops::Range<usize>, most: i64| {
            let digits = text.get(at).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse::<i64>().ok().filter(|n| *n <= most)
        };
        let colons = |text: &str, at: &[usize]| at.iter().all(|&i| text.as_bytes().get(i) == Some(&b':'));
        let (year, month, day) = (number(date, 0..4, 9999)?, number(date, 5..7, 12)?, number(date, 8..10, 31)?);
        if date.as_bytes()[4] != b'-' || date.as_bytes()[7] != b'-' || !colons(rest, &[2, 5]) {
            return None;
        }
        let (hour, minute, second) = (number(rest, 0..2, 23)?, number(rest, 3..5, 59)?, number(rest, 6..8, 59)?);
        let zone = rest.get(8..)?;
        let zone = match zone.strip_prefix('.') {
            Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
            None => zone,
        };
        let offset = match zone.as_bytes().first()? {
            b'Z' if zone.len() == 1 => 0,
            sign @ (b'+' | b'-') if zone.len() == 6 && colons(zone, &[3]) => {
                let east = number(zone, 1..3, 23)? * 3_600 + number(zone, 4..6, 59)? * 60;
                if *sign == b'+' { east } else { -east }
            }
            _ => return None,
        };
        // The inverse of `at`, in its terms.
        let shifted_year = year - i64::from(month <= 2);
        let (era, year_of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
        let secs = days * 86_400 + hour * 3_600 + minute * 60 + second;
        // Days and months that do not exist come out as others.
        let is_date = Utc::at(secs) == Utc { year, month, day, hour, minute, second };
        is_date.then_some(secs - offset)
    }

    /// Seconds after the Unix epoch of a time as HTTP has it: `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub fn parse_http(text: &str) -> Option<i64> {
        const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
        let mut words = text.split_once(", ")?.1.split(' ');
        let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let month = MONTHS.find(month).filter(|at| at % 3 == 0 && month.len() == 3)? / 3 + 1;
        let is_gmt = (words.next(), words.next()) == (Some("GMT"), None);
        Utc::parse(&format!("{year}-{month:02}-{day}T{time}Z")).filter(|_| is_gmt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_utc_days() {
        let date = |secs| {
            let at = Utc::at(secs);
            (at.year, at.month, at.day)
        };
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(951_782_400), (2000, 2, 29));
        assert_eq!(date(-1), (1969, 12, 31));
        assert_eq!(date(1_795_305_600), (2026, 11, 22));
    }

    #[test]
    fn the_dates_of_http_are_read() {
        assert_eq!(Utc::parse_http("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(Utc::parse_http("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        for text in [
            "",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 anF 1994 08:49:37 GMT",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
            "Sun, \u{e9}6 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(Utc::parse_http(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_read_with_their_zone() {
        assert_eq!(Utc::parse("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(Utc::parse("2030-01-01T00:00:00+00:00"), Some(1_893_456_000));
        assert_eq!(Utc::parse("2000-02-29 01:30:00.123456+01:30"), Some(951_782_400));
        assert_eq!(Utc::parse("1999-12-31T23:59:59-00:01"), Some(946_684_859));
        for text in [
            "",
            "2030-01-01",
            "2030-01-01T00:00:00",
            "2030-02-29T00:00:00Z",
            "2030-00-01T00:00:00Z",
            "2030-01-01T24:00:00Z",
            "2030-01-01T00:00:00+1:00",
            "2030-01-01T00:00:00.5",
            "2030-1-01T00:00:00Z ",
            "+203-01-01T00:00:00Z",
            "2030-01-01\u{e9}00:00:00Z",
        ] {
            assert_eq!(Utc::parse(text), None, "{text}");
        }
    }
}
