//! JSON Web Tokens of the admin plane: RS256 alone, by public keys from files, with rotation by key id.
//!
//! The algorithm is fixed here, whatever a token's header says, and keys come from files alone: `jku`, `x5u`, `jwk` and `x5c` of
//! a header are not looked at. `iss`, `aud`, `exp` and `sub` are required, `nbf` is honoured, clocks may differ by a minute. The
//! claim `role` names a role; a writer's or reader's token says in `streams` which ones it may use.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Once,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{AlgorithmParameters, JwkSet, PublicKeyUse},
    signature,
};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use ttdust_shards::access::{Principal, Role, StreamPermissions, Unauthenticated};

use crate::config::Settings;

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;
const LEEWAY_SECONDS: u64 = 60;
const SUBJECT_BYTES_MAX: usize = 256;

/// Why keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct TokenKeyError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub reason: String,
}

/// The keys in force.
pub struct Tokens {
    keys: Vec<(Option<String>, DecodingKey)>,
    validation: Validation,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    role: String,
    #[serde(default)]
    streams: Vec<String>,
}

impl Tokens {
    /// Reads the keys. `None`: no file is named, so no token is taken.
    ///
    /// # Errors
    /// [`TokenKeyError`].
    pub fn load(settings: &Settings) -> Result<Option<Self>, TokenKeyError> {
        install_verifier();
        let mut keys = Vec::new();
        if let Some(path) = &settings.jwt_public_key_path {
            keys.push((None, pem_key(path)?));
        }
        if let Some(path) = &settings.jwt_jwks_path {
            keys.extend(key_set(path)?);
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let mut validation = Validation::new(Algorithm::RS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[&settings.jwt_issuer]);
        validation.set_audience(&[&settings.jwt_audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Ok(Some(Self { keys, validation }))
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// [`Unauthenticated`]; the log says why, at level debug.
    pub fn check(&self, token: &str) -> Result<Principal, Unauthenticated> {
        self.principal(token).map_err(|reason| {
            tracing::debug!(reason, "a token was refused");
            Unauthenticated
        })
    }

    fn principal(&self, token: &str) -> Result<Principal, String> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(format!("longer than {TOKEN_BYTES_MAX} bytes"));
        }
        let header = decode_header(token).map_err(|e| e.to_string())?;
        if header.crit.is_some() {
            return Err("its header names extensions that must be understood (crit)".into());
        }
        let claims = self.claims(token, header.kid.as_deref())?;
        let role = Role::of_name(&claims.role).ok_or("its role is none of ours")?;
        if claims.sub.is_empty() || claims.sub.len() > SUBJECT_BYTES_MAX || claims.sub.contains(char::is_control) {
            return Err("its subject is empty, too long or no plain text".into());
        }
        let ends = claims.exp.saturating_add(LEEWAY_SECONDS).saturating_mul(1_000_000);
        let ends = i64::try_from(ends).unwrap_or(i64::MAX);
        Ok(Principal::of_token(&claims.sub, role, StreamPermissions::new(claims.streams), ends))
    }

    /// The claims, if one of the keys that the token may be signed by did sign it.
    fn claims(&self, token: &str, kid: Option<&str>) -> Result<Claims, String> {
        let mut reason = "no key has its kid".to_owned();
        for (known, key) in &self.keys {
            // A key without an id may have signed any token; a token without one may be signed by any key.
            if let (Some(known), Some(kid)) = (known.as_deref(), kid)
                && known != kid
            {
                continue;
            }
            match decode::<Claims>(token, key, &self.validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TokenKeyError> {
    let error = |reason: String| TokenKeyError { path: path.to_owned(), reason };
    let length = std::fs::metadata(path).map_err(|e| error(e.to_string()))?.len();
    if length > KEY_FILE_BYTES_MAX {
        return Err(error(format!("{length} bytes are too many for a key file")));
    }
    std::fs::read(path).map_err(|e| error(e.to_string()))
}

fn pem_key(path: &Path) -> Result<DecodingKey, TokenKeyError> {
    let error = |reason: String| TokenKeyError { path: path.to_owned(), reason };
    let bytes = read(path)?;
    if bytes.windows(11).any(|w| w == b"PRIVATE KEY") {
        return Err(error("holds a private key: give the public one (openssl rsa -in key.pem -pubout)".into()));
    }
    let key = DecodingKey::from_rsa_pem(&bytes).map_err(|e| error(format!("no RSA public key in PEM: {e}")))?;
    usable(&key).map_err(error)?;
    Ok(key)
}

fn key_set(path: &Path) -> Result<Vec<(Option<String>, DecodingKey)>, TokenKeyError> {
    let error = |reason: String| TokenKeyError { path: path.to_owned(), reason };
    let set: JwkSet =
        serde_json::from_slice(&read(path)?).map_err(|e| error(format!("no JSON Web Key Set (RFC 7517): {e}")))?;
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let signs = jwk.common.public_key_use.as_ref().is_none_or(|r#use| *r#use == PublicKeyUse::Signature);
        if !signs || !matches!(jwk.algorithm, AlgorithmParameters::RSA(_)) {
            continue;
        }
        let named = |reason: String| error(format!("key {:?}: {reason}", jwk.common.key_id.as_deref().unwrap_or("")));
        let key = DecodingKey::from_jwk(jwk).map_err(|e| named(e.to_string()))?;
        usable(&key).map_err(named)?;
        keys.push((jwk.common.key_id.clone(), key));
    }
    if keys.is_empty() {
        return Err(error("holds no RSA key for signatures".into()));
    }
    Ok(keys)
}

/// Whether signatures can be checked by a key: one of its own making is not needed to find out.
fn usable(key: &DecodingKey) -> Result<(), String> {
    let bits = match key.kind() {
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.iter().skip_while(|&&b| b == 0).count() * 8,
        // Of PKCS#1: a sequence with the modulus, a few bytes around it.
        DecodingKeyKind::SecretOrDer(der) => der.len().saturating_sub(14) * 8,
    };
    if bits < 2048 { Err(format!("an RSA key of {bits} bits: at least 2048 are wanted")) } else { Ok(()) }
}

/// RS256 by `ring`, which TLS is built on too.
struct Rs256(DecodingKey);

impl signature::Verifier<Vec<u8>> for Rs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let verified = match self.0.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => RsaPublicKeyComponents { n: unpadded(n), e: unpadded(e) }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
            DecodingKeyKind::SecretOrDer(der) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der).verify(message, signature)
            }
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Rs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}

/// A big-endian number without the zeros in front, as `ring` wants it.
fn unpadded(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|&&b| b == 0).count()..]
}

fn install_verifier() {
    static PROVIDER: CryptoProvider = CryptoProvider {
        signer_factory: |_, _| Err(Error::from(ErrorKind::InvalidAlgorithm)),
        verifier_factory: |algorithm, key| match algorithm {
            Algorithm::RS256 => Ok(Box::new(Rs256(key.clone()))),
            _ => Err(Error::from(ErrorKind::InvalidAlgorithm)),
        },
        key_utils: KeyUtils::new_unimplemented(),
    };
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let installed = PROVIDER.install_default();
        assert!(installed.is_ok(), "nobody else installs one");
    });
}

#[cfg(test)]
mod tests;
